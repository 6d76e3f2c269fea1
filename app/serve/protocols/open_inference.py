"""The Open Inference Protocol, version 2, as KServe and Triton speak it: its documents.

https://github.com/kserve/open-inference-protocol and, for tensors behind the JSON in the same body,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from app.inference.engine import Engine
from app.inference.render import MAX_SCALE, MIN_SCALE
from app.serve.protocols.errors import InvalidRequestError

PLATFORM: Final = "pytorch_fcn"
IMAGE: Final = "image"
FILE: Final = "file"
LABEL_MAP: Final = "label_map"
SCORES: Final = "scores"

OUTPUTS: Final = (LABEL_MAP, SCORES)
DATATYPES: Final = {IMAGE: "UINT8", FILE: "BYTES", LABEL_MAP: "UINT8", SCORES: "FP32"}


class TensorParameters(BaseModel):
    """What is said of one tensor besides its values; unknown parameters are ignored."""

    binary_data_size: int | None = Field(None, ge=0, description="Its bytes behind the JSON.")
    binary_data: bool | None = Field(None, description="Of an output: write it behind the JSON.")
    shared_memory_region: str | None = Field(None, description="Refused: there is none.")
    classification: int | None = Field(None, description="Refused: there are no rankings.")


Dimension = Annotated[int, Field(le=2**63 - 1)]
"""Of a tensor: 64 bits in the protocol. Python's own numbers could be too long to be printed."""


class InputTensor(BaseModel):
    """The photos of a request, as pixels or as files."""

    name: Literal["image", "file"] = Field(description="`image`: RGB pixels; `file`: image files.")
    shape: list[Dimension] = Field(min_length=1, max_length=4, examples=[[1, 360, 480, 3]])
    datatype: str = Field(description="`UINT8` for `image`, `BYTES` for `file`.")
    parameters: TensorParameters = TensorParameters()
    data: list[Any] | None = Field(
        None,
        description="Its values in row-major order, unless they stand behind the JSON; files are "
        "strings of base64.",
    )


class RequestedOutput(BaseModel):
    """An output that is wanted."""

    name: Literal["label_map", "scores"]
    parameters: TensorParameters = TensorParameters()


class InferenceParameters(BaseModel):
    """Parameters of a request; unknown ones are ignored."""

    binary_data_output: bool = Field(False, description="Write all outputs behind the JSON.")
    scale: float | None = Field(
        None, ge=MIN_SCALE, le=MAX_SCALE, description="As the parameter of `POST /segment`."
    )
    classes: str | None = Field(None, description="As the parameter of `POST /segment`.")


class InferenceRequest(BaseModel):
    """The JSON part of an inference request."""

    id: str | None = None
    parameters: InferenceParameters = InferenceParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = Field(None, description="Without any, all.")


class OutputTensor(BaseModel):
    """A tensor of an answer."""

    name: str = Field(examples=[LABEL_MAP])
    shape: list[int] = Field(examples=[[1, 360, 480]])
    datatype: str = Field(examples=["UINT8"])
    parameters: TensorParameters | None = None
    data: list[int] | list[float] | None = None


class InferenceResponse(BaseModel):
    """Answer of an inference; `label_map` has the class index of every pixel."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    """A tensor that the model takes or gives; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What the model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """Who answers."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """Whether the process works."""

    live: bool


class ServerReady(BaseModel):
    """Whether new work is taken."""

    ready: bool


class ModelReady(BaseModel):
    """Whether the model takes work."""

    name: str
    ready: bool


def model_version(engine: Engine) -> str:
    """Return the version of the protocol: the start of the checkpoint's, as in `X-Model`."""
    return engine.version[:12]


def model_metadata(engine: Engine) -> ModelMetadata:
    """Describe a model. Of its two inputs a request has one."""
    classes = len(engine.card.classes)
    return ModelMetadata(
        name=engine.card.name,
        versions=[model_version(engine)],
        platform=PLATFORM,
        inputs=[
            TensorMetadata(name=IMAGE, datatype=DATATYPES[IMAGE], shape=[-1, -1, -1, 3]),
            TensorMetadata(name=FILE, datatype=DATATYPES[FILE], shape=[-1]),
        ],
        outputs=[
            TensorMetadata(name=LABEL_MAP, datatype=DATATYPES[LABEL_MAP], shape=[-1, -1, -1]),
            TensorMetadata(name=SCORES, datatype=DATATYPES[SCORES], shape=[-1, classes]),
        ],
    )


def model_configuration(engine: Engine) -> dict[str, Any]:
    """Describe a model as Triton's `config.pbtxt` does, the names of its classes included."""
    metadata = model_metadata(engine)
    names = to_json([info.name for info in engine.card.classes]).decode()

    def described(tensor: TensorMetadata, **more: Any) -> dict[str, Any]:
        kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
        return {"name": tensor.name, "data_type": f"TYPE_{kind}", "dims": tensor.shape, **more}

    return {
        "name": metadata.name,
        "platform": metadata.platform,
        "max_batch_size": 0,
        "input": [described(tensor, optional=True) for tensor in metadata.inputs],
        "output": [described(tensor) for tensor in metadata.outputs],
        "parameters": {"class_names": {"string_value": names}},
    }


def refuse_extensions(name: str, parameters: TensorParameters) -> None:
    """Raise InvalidRequestError if a tensor needs an extension that there is not."""
    if parameters.shared_memory_region is not None:
        raise InvalidRequestError(f"`{name}`: shared memory is not supported.")
    if parameters.classification:
        raise InvalidRequestError(f"`{name}`: the classification extension is not supported.")
