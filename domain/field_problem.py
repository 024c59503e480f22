"""What is wrong with one field of a request: rules find it, and the API answers with it."""

from pydantic import BaseModel, Field


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    pointer: str = Field(
        description="JSON pointer into the body (empty: the body itself), or the name of a parameter.",
        examples=["/space/learning_rate/low"],
    )
    code: str = Field(examples=["greater_than_equal"])
    message: str = Field(description="What was expected, and what was given.")
    hint: str | None = Field(None, description="What to do.")
