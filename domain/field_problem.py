"""The error of one field of a request. Rules report it, and the API returns it to the client."""

from pydantic import BaseModel, Field


class FieldProblem(BaseModel):
    """The error of one field."""

    pointer: str = Field(
        description="JSON pointer into the body (empty for the whole body), or the name of a parameter.",
        examples=["/space/learning_rate/low"],
    )
    code: str = Field(examples=["greater_than_equal"])
    message: str = Field(description="What was expected and what was given.")
    hint: str | None = Field(None, description="What to do.")
