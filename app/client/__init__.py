"""The service from Python: `Client` and `AsyncClient`, typed results, typed errors.

Imports neither torch nor the service, so programs that only ask for masks start quickly.
"""

from app.client.async_client import AsyncClient
from app.client.client import Client
from app.client.errors import (
    BadImageError,
    BusyError,
    ConnectionFailedError,
    DeadlineError,
    InvalidRequestError,
    ProtocolError,
    SegmentationError,
    ServerError,
    TooLargeError,
    UnavailableError,
)
from app.client.folder import Failure, FolderReport
from app.client.photos import Photo
from app.client.plan import FolderError
from app.client.results import VOID, ClassInfo, Health, Model, Segmentation
from app.client.rich_answers import Probabilities

__all__ = [
    "VOID",
    "AsyncClient",
    "BadImageError",
    "BusyError",
    "ClassInfo",
    "Client",
    "ConnectionFailedError",
    "DeadlineError",
    "Failure",
    "FolderError",
    "FolderReport",
    "Health",
    "InvalidRequestError",
    "Model",
    "Photo",
    "Probabilities",
    "ProtocolError",
    "Segmentation",
    "SegmentationError",
    "ServerError",
    "TooLargeError",
    "UnavailableError",
]
