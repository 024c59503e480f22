"""What people write on a data set or a job to find it again: its name, notes and tags."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

# PostgreSQL cannot store NUL in text.
Name = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
Notes = Annotated[
    str,
    Field(max_length=10_000, pattern=r"^[^\x00]*$", description="Notes, at most 10,000 characters."),
]
Tag = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=50, pattern=r"^[^\x00-\x1f\x7f]*$"),
]


def _distinct(tags: list[str]) -> list[str]:
    """Return the tags without repetitions. Upper and lower case make no difference."""
    first: dict[str, str] = {}
    for tag in tags:
        first.setdefault(tag.casefold(), tag)
    return list(first.values())


Tags = Annotated[
    list[Tag],
    Field(
        max_length=20,
        description="Tags, at most 20 of at most 50 characters. Lists can be filtered by tags, whatever their case.",
        examples=[["pilot", "monkey J"]],
    ),
    AfterValidator(_distinct),
]


class Labels(BaseModel):
    """Notes and tags of something new. They are no part of its content."""

    notes: Notes = ""
    tags: Tags = Field(default_factory=list)
