"""What a handler may raise or return that breaks code which trusts exceptions and texts.

One handler meets one oddity in each attempt, in turn. Imported by worker processes as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import eventsched


class Unprintable(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    def __repr__(self) -> str:
        raise SystemExit(3)


class Gigantic(Exception):
    def __str__(self) -> str:
        return "x" * 3_000_000

    __repr__ = __str__


class OddText(str):
    """A text whose methods do not work."""

    __slots__ = ()

    def _fail(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("a method of a text")

    __len__: Any = _fail
    __iter__: Any = _fail
    __format__: Any = _fail
    __getitem__: Any = _fail
    splitlines: Any = _fail
    strip: Any = _fail
    encode: Any = _fail


class OddBytes(bytes):
    """Bytes whose length is wrong."""

    def __len__(self) -> int:
        return 7


class WithOddText(Exception):
    def __str__(self) -> str:
        return OddText("odd")


class _Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__"):
            raise ValueError(f"no {name}")
        return super().__getattribute__(name)


class OfAnOddClass(Exception, metaclass=_Meta):
    pass


class OfItsOwn(BaseException):
    pass


class Hidden(Exception):
    """Its attributes raise the exception itself again, also the one by which `isinstance` asks."""

    def __getattribute__(self, name: str) -> Any:
        raise self


class Liar(Exception):
    __class__ = GeneratorExit  # type: ignore[assignment]


def _raises(error: Callable[[], BaseException]) -> Callable[[], Any]:
    def odd() -> NoReturn:
        raise error()

    return odd


def deep_group() -> BaseException:
    group: Exception = ValueError("inner")
    for _ in range(3_000):
        group = ExceptionGroup("outer", [group])
    return group


def changed_error() -> BaseException:
    error = eventsched.JobError("FAILED")
    error.code = 7  # type: ignore[assignment]
    return error


def generator() -> Any:
    yield eventsched.Result(text="hola")


async def asynchronous_generator() -> Any:
    yield eventsched.Result(text="hola")


ODDITIES: list[Callable[[], Any]] = [
    _raises(Unprintable),
    _raises(Gigantic),
    _raises(WithOddText),
    _raises(OfAnOddClass),
    _raises(OfItsOwn),
    _raises(Hidden),
    _raises(Liar),
    _raises(lambda: BaseExceptionGroup("several", [OfItsOwn(), Unprintable()])),
    _raises(deep_group),
    _raises(changed_error),
    generator,
    asynchronous_generator,
]
"""Each makes an attempt fail: three jobs of four attempts meet them all."""


def result_of_subclasses() -> eventsched.Result:
    """A result whose values are of subclasses: it counts, with the values that they have."""
    return eventsched.Result(text=OddText("hola"), audio=OddBytes(b"0123456789"))


def oddity(job: Any) -> Any:
    """The name of the session's feature says which job it is."""
    (feature,) = job.features
    if feature == "good":
        return result_of_subclasses()
    return ODDITIES[4 * int(feature.removeprefix("job")) + job.attempt - 1]()


def plain(job: Any) -> Any:
    return oddity(job)


async def in_the_loop(job: Any) -> Any:
    return oddity(job)
