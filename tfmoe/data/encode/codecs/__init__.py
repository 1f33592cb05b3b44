"""What the room does with each kind of column, in NumPy and as a graph: one codec a kind."""

from typing import Any

from tfmoe.data.encode.codecs.base import Codec
from tfmoe.data.encode.codecs.bounded import BoundedCodec
from tfmoe.data.encode.codecs.categorical import CategoricalCodec
from tfmoe.data.encode.codecs.crossed import CrossedCodec
from tfmoe.data.encode.codecs.lists import ListCodec
from tfmoe.data.encode.codecs.numeric import NumericCodec
from tfmoe.data.encode.codecs.pretrained import PretrainedCodec
from tfmoe.data.encode.codecs.text import TextCodec
from tfmoe.data.encode.codecs.timestamp import TimestampCodec
from tfmoe.data.encode.codecs.vector import VectorCodec
from tfmoe.schema.columns import Categorical, MultiCategorical, Numeric
from tfmoe.schema.crossed import Crossed
from tfmoe.schema.pretrained import Pretrained
from tfmoe.schema.schema import Schema
from tfmoe.schema.text import Text
from tfmoe.schema.timestamp import Timestamp
from tfmoe.schema.vector import Vector

# A kind has the codec of the first of its classes that is here.
_CODECS: dict[type, type[Codec]] = {
    Numeric: NumericCodec,
    Categorical: CategoricalCodec,
    MultiCategorical: ListCodec,
    Vector: VectorCodec,
    Timestamp: TimestampCodec,
    Crossed: CrossedCodec,
    Text: TextCodec,
    Pretrained: PretrainedCodec,
}


def codec_of(column: Any, schema: Schema) -> Codec:
    """The codec of a column of a schema."""
    if getattr(column, "boundaries", ()):
        return BoundedCodec(column, schema)
    return next(_CODECS[kind] for kind in type(column).__mro__ if kind in _CODECS)(column, schema)


def codecs_of(schema: Schema) -> dict[str, Codec]:
    """The codecs of a schema's columns, by name."""
    return {column.name: codec_of(column, schema) for column in schema.columns}
