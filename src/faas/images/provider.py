"""All images there are: those of the store, which every runtime can run, and those that runtimes
keep themselves, as a Docker Engine does.

What a name means is looked for in this order: the store (what was imported or pulled here runs
exactly as it was); what the runtime keeps, or any runtime when none was asked for; the registry,
when the request's pull policy allows. Where the request asks for a runtime that keeps images, it
pulls; else skopeo fetches into the store, where every runtime can use it.

Looking at what a runtime keeps costs a call, and is believed for one second.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path

from faas.clock import Clock, SystemClock
from faas.config import is_loopback
from faas.errors import (
    DeadlineExceededError,
    FaasError,
    ImageNotFoundError,
    PermissionDeniedError,
    RuntimeUnavailableError,
    UnavailableError,
    UnsupportedError,
)
from faas.events import (
    EventBus,
    ImageBuilt,
    ImagePulled,
    ImagePullFailed,
    ImagePullStarted,
    ImageRemoved,
)
from faas.ids import TenantId
from faas.images.closed import ClosedImages
from faas.images.flights import Flights
from faas.images.neighbours import with_neighbour
from faas.images.order import ImageOrder, ListedImage, PullRules
from faas.images.pace import Paced
from faas.images.pull import ImagePuller
from faas.images.reference import HOST, ImageReference, is_digest
from faas.images.store import ImageStore
from faas.model import PullPolicy
from faas.sandbox.image_keeper import BuildOrder, ImageShelf, RegistryLogin, Told
from faas.sandbox.protocols import RootFilesystem

BELIEVED_SECONDS = 1.0
_LOOKED_MAX = 1000

_OUT_OF_REACH = (
    "no such host", "connection refused", "no route to host", "network is unreachable",
    "i/o timeout", "awaiting headers", "does not answer",
)  # fmt: skip
"""What skopeo and the Engine say of a registry that they never spoke with."""

Shelves = Callable[[], Mapping[str, ImageShelf]]
"""The shelves of the runtimes that work now, by their name."""


class ImageProvider:
    """Finds, fetches, builds, lists and removes images."""

    def __init__(
        self,
        store: ImageStore,
        *,
        puller: ImagePuller,
        shelves: Shelves,
        closed: ClosedImages,
        events: EventBus,
        rules: PullRules | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.store = store
        self._puller = puller
        self._shelves = shelves
        self._closed = closed
        self._events = events
        self._rules = rules or PullRules()
        self._clock = clock or SystemClock()
        self._flights: Flights[RootFilesystem] = Flights()
        self._looked: dict[tuple[str, str], tuple[RootFilesystem, int]] = {}

    def resolve(self, reference: str) -> RootFilesystem:
        """Return an image of the store, or one that was lately seen with a runtime.

        Raises:
            ImageNotFoundError: neither has it.
        """
        try:
            return self.store.resolve(reference)
        except ImageNotFoundError:
            for (_, name), (root, _) in self._looked.items():
                if name == reference:
                    return root
            raise

    def at_hand(self, order: ImageOrder) -> RootFilesystem | None:
        """Return an image that needs no waiting for; None: it has to be provided.

        Raises:
            InvalidImageError: it is no image name.
            ImageNotFoundError: it is not here, and nothing could bring it.
        """
        if order.policy is PullPolicy.ALWAYS and not _is_fixed(order.reference):
            return None
        try:
            root = self._of_store(order)
        except ImageNotFoundError as missing:
            shelves = self._shelves()
            if not shelves and (order.policy is PullPolicy.NEVER or not self._puller.is_installed):
                raise self._with_neighbour(missing, order) from None
            root = None
        return root or self._fresh(order, self._shelves())

    async def provide(self, order: ImageOrder, told: Told = lambda _: None) -> RootFilesystem:
        """Return an image, fetching it when the policy says so.

        Raises:
            ImageNotFoundError: it is not here, and the registry does not have it.
            DeadlineExceededError: it took longer than the caller allowed.
            FaasError: why it could not be fetched.
        """
        seconds = min(order.seconds_max, self._rules.seconds_max)
        try:
            async with asyncio.timeout(seconds):
                return await self._provide(order, told)
        except TimeoutError:
            raise DeadlineExceededError(
                f"fetching {order.reference} took longer than the {seconds:g} s it may take"
            ) from None
        except ImageNotFoundError as missing:
            raise self._with_neighbour(missing, order) from missing.__cause__

    def _with_neighbour(self, missing: ImageNotFoundError, order: ImageOrder) -> ImageNotFoundError:
        return with_neighbour(
            missing, order.reference, self.store.names(),
            lambda name: self._is_open(order, self.store.resolve(name)),
        )  # fmt: skip

    async def import_(self, reference: str, source: Path) -> ListedImage:
        """Import into the store; everybody may run it."""
        made = await self.store.import_(reference, source)
        self._closed.open(ImageReference.parse(reference).name, made.digest)
        return ListedImage(
            made.reference, made.digest, made.size_bytes, made.created_at, made.source
        )

    async def build(
        self, context: Path, order: BuildOrder, *, runtime: str = "docker"
    ) -> AsyncGenerator[str | RootFilesystem]:
        """Build from a Dockerfile where `runtime` keeps its images: words, then the image.

        Raises:
            UnsupportedError: that runtime builds none, or does not work here.
        """
        shelf = self._shelf(runtime)
        parsed = ImageReference.parse(order.reference)
        order = replace(order, reference=parsed.name)
        ends_ns = self._clock.monotonic_ns() + round(order.seconds_max * 1e9)
        async with aclosing(shelf.build(context, order)) as words:
            while (text := await self._next(words, ends_ns, order.seconds_max)) is not None:
                yield text
        root = await self._seen(runtime, parsed.name)
        if root is None:
            raise UnavailableError(f"{parsed.familiar} is gone right after it was built")
        self._closed.open(parsed.name, root.digest)
        self._events.publish(ImageBuilt(reference=parsed.familiar, digest=root.digest))
        yield root

    async def _next(
        self, words: AsyncGenerator[str], ends_ns: int, seconds_max: float
    ) -> str | None:
        """Wait for the next words of a build, no longer than it may take in all."""
        try:
            async with asyncio.timeout((ends_ns - self._clock.monotonic_ns()) / 1e9):
                return await anext(words, None)
        except TimeoutError:
            raise DeadlineExceededError(
                f"the build took longer than the {seconds_max:g} s it may take"
            ) from None

    async def list(self, tenant: TenantId | None = None) -> list[ListedImage]:
        """Every image a tenant may run; None is all there are."""
        found = [
            ListedImage(
                one.reference, one.digest, one.size_bytes, one.created_at, one.source,
                one.manifest_digest,
            )
            for one in await asyncio.to_thread(self.store.list)
        ]  # fmt: skip
        for name, shelf in self._shelves().items():
            found += [
                ListedImage(
                    one.reference, one.digest, one.size_bytes, one.created_at, name,
                    one.manifest_digest, name,
                )
                for one in await shelf.list()
            ]  # fmt: skip
        if tenant is None:
            return found
        return [one for one in found if self._may_see(tenant, one)]

    async def remove(self, reference: str, *, runtime: str | None = None) -> None:
        """Forget a name in the store, or where a runtime keeps it.

        Raises:
            ImageNotFoundError: nobody has it.
            WrongStateError: it is in use.
        """
        if runtime is None:
            try:
                await self.store.remove(reference)
            except ImageNotFoundError:
                for shelf in self._shelves().values():
                    if await shelf.find(reference) is not None:
                        await self._remove_kept(shelf, reference)
                        return
                raise
            self._events.publish(ImageRemoved(reference=reference))
            return
        await self._remove_kept(self._shelf(runtime), reference)

    async def _remove_kept(self, shelf: ImageShelf, reference: str) -> None:
        await shelf.remove(reference)
        self._looked.clear()
        self._events.publish(ImageRemoved(reference=reference))

    def _shelf(self, runtime: str) -> ImageShelf:
        shelves = self._shelves()
        if runtime not in shelves:
            raise UnsupportedError(
                f"the runtime {runtime} keeps no images here",
                hint="faas doctor says what is missing",
                details={"supported": sorted(shelves)},
            )
        return shelves[runtime]

    def _of_store(self, order: ImageOrder) -> RootFilesystem | None:
        root = self.store.resolve(order.reference)
        if root.digest == HOST:
            # A stand-in for a name; a runtime with images of its own has, or gets, the real one.
            is_own = order.reference == HOST or order.runtime == "auto"
            return root if is_own or order.runtime not in self._shelves() else None
        return root if self._is_open(order, root) else None

    def _is_open(self, order: ImageOrder, root: RootFilesystem) -> bool:
        return self._closed.is_open(order.tenant, digest=root.digest, name=_normal(order.reference))

    def _fresh(self, order: ImageOrder, shelves: Mapping[str, ImageShelf]) -> RootFilesystem | None:
        now = self._clock.monotonic_ns()
        for runtime in _asked(order, shelves):
            found = self._looked.get((runtime, order.reference))
            if found and now - found[1] < BELIEVED_SECONDS * 1e9 and self._is_open(order, found[0]):
                return found[0]
        return None

    async def _provide(self, order: ImageOrder, told: Told) -> RootFilesystem:
        if order.policy is not PullPolicy.ALWAYS or _is_fixed(order.reference):
            root = await self._find(order)
            if root is not None:
                return root
        if order.policy is PullPolicy.NEVER or _is_fixed(order.reference):
            raise ImageNotFoundError(
                f"there is no image {order.reference!r} here",
                hint=f"faas images pull {order.reference}   or   pull_policy missing",
                details={"image": order.reference},
            )
        parsed = ImageReference.parse(order.reference)
        self._check_registry(parsed)
        before = await self._digests() if order.login is not None else frozenset[str]()
        with self._login_noted(order, parsed, before) as noted:
            root = await self._pull(order, parsed, told)
            noted(root)
        return root

    async def _find(self, order: ImageOrder) -> RootFilesystem | None:
        try:
            root = self._of_store(order)
        except ImageNotFoundError:
            root = None
        if root is not None:
            return root
        for runtime in _asked(order, self._shelves()):
            kept = await self._seen(runtime, order.reference)
            if kept is not None and self._is_open(order, kept):
                return kept
        return None

    async def _digests(self) -> AbstractSet[str]:
        """All that is here now, wherever it is kept."""
        return {one.digest for one in await self.list()}

    async def _seen(self, runtime: str, reference: str) -> RootFilesystem | None:
        root = await self._shelf(runtime).find(reference)
        if root is None:
            self._looked.pop((runtime, reference), None)
            return None
        if len(self._looked) >= _LOOKED_MAX:
            self._looked.clear()
        self._looked[runtime, reference] = (root, self._clock.monotonic_ns())
        return root

    async def _pull(self, order: ImageOrder, parsed: ImageReference, told: Told) -> RootFilesystem:
        shelves = self._shelves()
        keeper = order.runtime if order.runtime in shelves else None
        if keeper is None and order.runtime == "auto" and not self._puller.is_installed:
            keeper = next(iter(shelves), None)

        async def begin(told: Told) -> RootFilesystem:
            return await self._told_of(parsed, keeper, order.login, told)

        root = await self._flights.join((keeper, str(parsed), order.login), begin, told)
        if keeper is not None:
            self._looked[keeper, order.reference] = (root, self._clock.monotonic_ns())
        return root

    async def _told_of(
        self, parsed: ImageReference, keeper: str | None, login: RegistryLogin | None, told: Told
    ) -> RootFilesystem:
        """Pull, with events about it."""
        began, by = self._clock.monotonic_ns(), keeper or "skopeo"
        self._events.publish(ImagePullStarted(reference=parsed.familiar, by=by))
        publish = Paced(parsed.familiar, self._events, self._clock, told)
        try:
            if keeper is not None:
                root = await self._shelf(keeper).pull(str(parsed), login=login, told=publish)
            else:
                made = await self._puller.pull(str(parsed), login=login, told=publish)
                root = self.store.resolve(made.digest)
        except FaasError as failure:
            self._events.publish(
                ImagePullFailed(reference=parsed.familiar, code=failure.code, by=by)
            )
            raise _for_the_caller(failure, parsed) from failure.__cause__
        took = (self._clock.monotonic_ns() - began) / 1e6
        self._events.publish(
            ImagePulled(reference=parsed.familiar, digest=root.digest, by=by, duration_ms=took)
        )
        return root

    def _check_registry(self, parsed: ImageReference) -> None:
        registry, allowed = parsed.registry, self._rules.registries
        host = registry.rpartition(":")[0] or registry
        is_plain = not is_loopback(host) and not host.replace(".", "").isdigit() and "[" not in host
        if registry in allowed or ("*" in allowed and is_plain):
            return
        raise PermissionDeniedError(
            f"this gateway does not pull from {registry}",
            hint=f"name it in the setting pull_registries, or: faas images pull {parsed.familiar}",
            details={"registry": registry},
        )

    @contextmanager
    def _login_noted(
        self, order: ImageOrder, parsed: ImageReference, before: AbstractSet[str]
    ) -> Generator[Callable[[RootFilesystem], None]]:
        """Keep what one tenant's password fetched from the others."""
        name = parsed.name
        if order.login is None:
            yield lambda root: self._closed.open(name, root.digest)
            return
        self._closed.begin(name, order.tenant)
        try:
            yield lambda root: self._closed.end(
                name, order.tenant, digest=root.digest, was_here=root.digest in before
            )
        except BaseException:
            self._closed.fail(name)
            raise

    def _may_see(self, tenant: TenantId, image: ListedImage) -> bool:
        return self._closed.is_open(tenant, digest=image.digest, name=_normal(image.reference))


def _asked(order: ImageOrder, shelves: Mapping[str, ImageShelf]) -> list[str]:
    """Which runtimes' own images will do."""
    if order.runtime == "auto":
        return list(shelves)
    return [order.runtime] if order.runtime in shelves else []


def _is_fixed(reference: str) -> bool:
    """Whether no registry is to be asked about it: a digest alone, and this machine."""
    return reference == HOST or is_digest(reference)


def _normal(reference: str) -> str:
    return reference if _is_fixed(reference) else ImageReference.parse(reference).name


def _for_the_caller(failure: FaasError, parsed: ImageReference) -> FaasError:
    """An image that cannot even be asked for is, to whoever wants to run it, not there."""
    if isinstance(failure, RuntimeUnavailableError):
        return failure
    said = f"{failure.message} {failure.details}".lower()
    is_out_of_reach = any(part in said for part in _OUT_OF_REACH)
    if not isinstance(failure, UnsupportedError) and not is_out_of_reach:
        return failure
    return ImageNotFoundError(
        f"there is no image {parsed.familiar} here, and it cannot be pulled: {failure.message}",
        hint=failure.hint,
        details={"image": parsed.familiar, **(failure.details or {})},
    )
