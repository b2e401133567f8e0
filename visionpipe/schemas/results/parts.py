"""Results that are a list of things: counted, walked, sliced and filtered like one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeAlias, TypeVar, Union, cast, overload

from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.results.base import Result

if TYPE_CHECKING:
    from numpy.typing import NDArray

PartT = TypeVar("PartT")

Wanted: TypeAlias = str | int | Iterable[str | int]
"""Classes by label or index: one, or several."""

Choice: TypeAlias = Union[slice, Sequence[bool], Sequence[int], "NDArray[Any]"]
"""Some of the things: a slice, one truth value for each, or their positions."""


class ListResult(Result, Generic[PartT]):
    """A result that is the sequence of the things in one of its fields; some of them make a result of the same type."""

    PARTS: ClassVar[str]
    """The field that holds them."""

    if not TYPE_CHECKING:

        def __class_getitem__(cls, part: object) -> type[Self]:
            # pydantic would make, at import, one more model of each kind of thing; the type checker alone asks for it.
            return cls

    def parts(self) -> list[PartT]:
        """The things, in the order of the result."""
        return cast("list[PartT]", getattr(self, self.PARTS))

    def with_parts(self, parts: Iterable[PartT]) -> Self:
        """Give the same result with other things in it."""
        return self.model_copy(update={self.PARTS: list(parts)})

    def __bool__(self) -> bool:
        # A result in which nothing was found is a result all the same: `if item.result` must not miss it.
        return True

    def __len__(self) -> int:
        return len(self.parts())

    # pydantic walks over a model's fields here; whoever wants those has `model_dump`.
    def __iter__(self) -> Iterator[PartT]:  # type: ignore[override]
        return iter(self.parts())

    @overload
    def __getitem__(self, choice: int) -> PartT: ...
    @overload
    def __getitem__(self, choice: Choice) -> Self: ...
    def __getitem__(self, choice: int | Choice) -> PartT | Self:
        parts = self.parts()
        if hasattr(choice, "tolist"):
            choice = cast("Any", choice).tolist()
        if isinstance(choice, int) and not isinstance(choice, bool):
            return parts[choice]
        if isinstance(choice, slice):
            return self.with_parts(parts[choice])
        return self.with_parts(_chosen(parts, choice))


def _chosen(parts: list[PartT], choice: object) -> list[PartT]:
    if not isinstance(choice, Sequence) or isinstance(choice, str):
        raise InvalidRequestError(
            f"expected a position, a slice, a list of positions or of truth values, got {choice!r}; "
            "filter(labels=...) chooses by class"
        )
    if choice and all(isinstance(entry, bool) for entry in choice):
        if len(choice) != len(parts):
            raise InvalidRequestError(f"expected one truth value for each of {len(parts)} things, got {len(choice)}")
        return [part for part, wanted in zip(parts, choice, strict=True) if wanted]
    return [parts[index] for index in choice]


def class_test(labels: Wanted | None) -> Callable[[str, int], bool]:
    """Make a test of label and class index; ``None`` lets every class pass."""
    if labels is None:
        return lambda label, class_id: True
    wanted = {labels} if isinstance(labels, str | int) else set(labels)
    return lambda label, class_id: label in wanted or class_id in wanted
