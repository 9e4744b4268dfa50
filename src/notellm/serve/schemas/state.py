"""Bodies and answers of the routes of the service itself: the map and reloading."""

from pydantic import BaseModel, ConfigDict, Field

from notellm.serve.schemas.common import Strict


class MapAnswer(BaseModel):
    """Notes in two dimensions, one position for each note; similar notes are near each other."""

    ready: bool = Field(description="False: the map is being computed; ask again.")
    note_ids: list[str]
    titles: list[str]
    categories: list[str]
    x: list[float] = Field(description="0 to 1.")
    y: list[float] = Field(description="0 to 1.")


class ReloadBody(Strict):
    """How to rebuild the index; see the documentation of the service."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    index: str | None = Field(
        None,
        max_length=10,
        pattern="^(exact|hnsw)$",
        description="Another kind of index; null keeps the kind.",
    )


class ReloadAnswer(BaseModel):
    """What answers now, until the reload is done."""

    model: str = Field(description="The fingerprint of the model.")
    index: str
