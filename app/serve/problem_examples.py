"""What the `detail` of each kind of problem looks like, for the OpenAPI document."""

from typing import Final

EXAMPLES: Final = {
    "bad-request": "This is no HTTP/1.1 request.",
    "broken-image": "The JPEG file is damaged, cut short or of an unsupported kind.",
    "not-found": "There is nothing at /segments; GET /docs lists what there is.",
    "method-not-allowed": "/segment does not take GET; it takes POST.",
    "not-acceptable": "Accept: text/html allows neither image/png nor application/json; name one "
    "of them, or choose with the query parameter `format`.",
    "too-many-bytes": "The request body is larger than the 33,554,432 bytes this server takes; "
    "send a smaller or more strongly compressed image.",
    "too-many-pixels": "The image has 8000 x 6000 pixels; at most 16,777,216 are accepted.",
    "out-of-memory": "There is too little memory: the network would see this photo at 4032 x 3024 "
    "pixels, and 2016 x 1512 is the most that fits at present. Send it at that size, or ask for "
    "`scale=0.5`.",
    "scaled-too-large": "At scale 2 this photo has 8064 x 6048 pixels; at most 16,777,216 are "
    "accepted. Ask for a smaller `scale`.",
    "answer-too-large": "The probabilities of this photo would take 7315 MB while they are "
    "written, and at most 1074 MB are held. Ask for fewer `classes` or send a smaller photo.",
    "unknown-image-format": "The file is not an image of a known format; known are JPEG, PNG, "
    "WebP, BMP, TIFF, GIF, AVIF.",
    "missing-image": "The form has no field `image`; its fields: `file`.",
    "too-many-images": "The form has more than 16 fields `image`, the most that one request may "
    "have; send several requests.",
    "invalid-parameter": "Unknown class 'cat'; the classes of this model, by name (or index): sky "
    "(0), building (1), road (2).",
    "queue-full": "The queue is full: 256 requests are waiting for their masks.",
    "queue-too-long": "The queue is too long for this request: it would wait about 12.5 seconds "
    "behind others, then take 0.3 itself, and must be answered within 20.0. It is taken only if "
    "even 2 times that wait leaves it enough time.",
    "uploads-full": "The server is receiving too many uploads at once: 268.1 MB of at most 268.4 "
    "MB are held.",
    "answers-full": "1009 MB of answers are being made or sent, and the 74 MB of this photo's "
    "probabilities would pass the bound of 1074 MB.",
    "head-too-large": "The request line and its headers take at most 65,536 bytes.",
    "internal-error": "The server failed on this request and logged why under its request id; "
    "other requests are not affected.",
    "not-ready": "The server is shutting down and takes no new work; send this to another one.",
    "stopping": "The server stopped before it came to this request.",
    "model-dead": "The model cannot run any more; this process must be restarted.",
    "deadline-exceeded": "The answer was not ready within 30 seconds; try a smaller photo or a "
    "smaller `scale`, or come back when the server is less busy.",
}
"""By `Problem.slug`."""
