"""Claims on a volume: folders, as a rename into a folder that is gone fails.

A claim is `gc/<tenant>/<hex>/<token>/`. Removing a blob is renaming it into its claim: the kernel, or the
server of a shared volume, does that only while the claim is there, and takes a claim away (rmdir) only while
nothing is in it. So there is no moment between a check and the removal, and no clock. What was renamed into
a claim is gone for everybody; whoever ends the claim, its owner or who reaps it, does what is left to do.

On a full volume a claim is made of a spare one (`spares`), by one rename, and what it took is removed
where it is: removing needs no block and no inode.
"""

import contextlib
import errno
import os
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Final

from manifestry.adapters.store.contract import bounded
from manifestry.adapters.store.contract.claim_ports import Claim, Look
from manifestry.adapters.store.local import files, spares
from manifestry.adapters.store.local.records import Run
from manifestry.core.blobs import garbagekeys, keys

_GARBAGE: Final = "garbage"
_DAMAGED: Final = "damaged"
_GONE: Final = frozenset({errno.ENOENT, errno.ESTALE})  # ESTALE: a folder on NFS that was removed elsewhere
_NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST})
_TAKEN: Final = frozenset({*_NOT_EMPTY, errno.ENOTDIR})  # a claim, or one of a version before folders


class LocalClaims:
    """See `claim_ports.Claims`.

    Args:
        root: the store's folder.
        run: how the store runs what blocks.
    """

    # No removal is ever late here; but who publishes one of these blobs waits no longer than WAIT_SECONDS.
    at_once = 2000

    def __init__(self, root: Path, run: Run) -> None:
        self._root = root
        self._run = run
        self._spares = spares.Spares(root)

    async def prepare(self, tenant_uid: str) -> None:
        """Make the tenant's folder of claims, and the spares, while there is room.

        Raises:
            StoreFullError: there is none; what was made before will do.
        """
        await self._run("claim", self._prepare, PurePosixPath(garbagekeys.claims(tenant_uid)))

    async def make(self, tenant_uid: str, digest: str) -> Claim | None:
        """Make the claim's folder, and one in it that is ours alone."""
        return await self._run("claim", self._make, tenant_uid, digest)

    async def fence(self, claims: Sequence[Claim]) -> list[Claim]:
        """Return them: these claims are good for as long as they are there."""
        return list(claims)

    async def remove(self, claim: Claim) -> bool:
        """Rename the blob into the claim; `release` removes it."""
        return await self._run("delete", self._take, claim, _GARBAGE)

    async def set_aside(self, tenant_uid: str, digest: str, is_same: Look) -> bool:
        """Rename the blob into a claim and from there to where damaged bytes are kept."""
        # Before anything is taken: there may be no room for it.
        await self._run("move", self._make_folder, PurePosixPath(garbagekeys.quarantine(tenant_uid, digest)))
        claim = await self.make(tenant_uid, digest)
        if claim is None:
            return False
        same = await is_same()
        if same:
            await self._run("move", self._take, claim, _DAMAGED)
        await self.release(claim)
        return same

    async def give_back(self, claims: Sequence[Claim]) -> None:
        """Release them."""
        await bounded.each(self.release(claim) for claim in claims)

    async def release(self, claim: Claim) -> None:
        """Remove what is in the claim, and the claim."""
        await self._run("release", self._end, claim.tenant_uid, claim.digest, claim.token)

    async def reap(self, age: timedelta) -> int:
        """End the claims that are old; only how soon depends on the clocks, never whether it is safe."""
        return await self._run("reap", self._reap, time.time() - age.total_seconds())

    def _prepare(self, claims: PurePosixPath) -> None:
        self._make_folder(claims / "any")
        self._spares.fill()

    def _make_folder(self, path: PurePosixPath) -> None:
        with files.open_folder(self._root, path.parent, create=True):
            pass

    def _make(self, tenant_uid: str, digest: str) -> Claim | None:
        path = PurePosixPath(garbagekeys.claim(tenant_uid, digest))
        with files.open_folder(self._root, path.parent, create=True) as claims, _gone():
            token = self._own(claims, path)
            if token is not None and (status := self._status(path / token)) is not None:
                return Claim(tenant_uid, digest, datetime.fromtimestamp(status.st_mtime, UTC), token)
        return None  # somebody else's, or taken for an abandoned one before it was complete

    def _own(self, claims: int, path: PurePosixPath) -> str | None:
        """Make a claim and return its token, None when there is one."""
        try:
            return self._new(claims, path)
        except OSError as error:
            if error.errno in spares.FULL and (token := self._spare(claims, path.name)) is not None:
                return token or None
            if error.errno not in _TAKEN:
                raise
        return None

    def _new(self, claims: int, path: PurePosixPath) -> str:
        token = str(uuid.uuid4())
        os.mkdir(path.name, 0o700, dir_fd=claims)
        try:
            with files.open_folder(self._root, path) as claim:
                os.mkdir(token, 0o700, dir_fd=claim)
        except OSError as error:
            if error.errno in spares.FULL:
                self._rmdir(path)  # else it would keep publishers waiting, and the room that it has
            raise
        return token

    def _spare(self, claims: int, name: str) -> str | None:
        """Return a spare claim's token; empty when somebody has claimed, None when there is no spare."""
        try:
            return self._spares.claim(claims, name)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        return ""

    def _take(self, claim: Claim, name: str) -> bool:
        blob = PurePosixPath(keys.blob(claim.tenant_uid, claim.digest))
        into = PurePosixPath(garbagekeys.claim(claim.tenant_uid, claim.digest)) / claim.token
        with (
            _gone(),
            files.open_folder(self._root, into) as to,
            files.open_folder(self._root, blob.parent) as where,
        ):
            os.rename(blob.name, name, src_dir_fd=where, dst_dir_fd=to)
            os.fsync(where)
            return True
        return False

    def _end(self, tenant_uid: str, digest: str, token: str) -> bool:
        """Empty a claim and remove it; tell whether it is gone. Two may do so at once, step by step."""
        path = PurePosixPath(garbagekeys.claim(tenant_uid, digest))
        with _gone(), files.open_folder(self._root, path / token) as claim:
            for name in os.listdir(claim):  # noqa: PTH208 - it is a descriptor
                self._put_away(claim, name, garbagekeys.quarantine(tenant_uid, digest))
        return self._rmdir(path / token) and self._rmdir(path)

    def _put_away(self, claim: int, name: str, quarantine: str) -> None:
        with _gone():
            if name == _DAMAGED:
                self._set_aside(claim, name, PurePosixPath(quarantine))
            else:
                self._discard(claim, name)

    def _set_aside(self, claim: int, name: str, to: PurePosixPath) -> None:
        """Put damaged bytes where they stay for a week from now on, not from their publication on."""
        os.utime(name, dir_fd=claim, follow_symlinks=False)
        _sync(claim, name)
        with files.open_folder(self._root, to.parent, create=True) as there:
            os.rename(name, to.name, src_dir_fd=claim, dst_dir_fd=there)
            os.fsync(there)

    def _discard(self, claim: int, name: str) -> None:
        # Removed from there and not from here: a file that somebody on the same node reads would stay on NFS
        # under another name in its folder, and the claim with it. Killed in between it is a left-over upload.
        to = PurePosixPath(keys.upload(str(uuid.uuid4())))
        try:
            with files.open_folder(self._root, to.parent, create=True) as there:
                os.rename(name, to.name, src_dir_fd=claim, dst_dir_fd=there)
                with contextlib.suppress(IsADirectoryError):  # never ours; the left-over is seen as such
                    os.unlink(to.name, dir_fd=there)
        except OSError as error:
            if error.errno not in spares.FULL:
                raise
            os.unlink(name, dir_fd=claim)  # no room for a name there

    def _rmdir(self, path: PurePosixPath) -> bool:
        """Remove a folder if it is empty; tell whether it is gone."""
        try:
            with _gone(), files.open_folder(self._root, path.parent) as above:
                os.rmdir(path.name, dir_fd=above)
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
            return False
        return True

    def _reap(self, before: float) -> int:
        base = PurePosixPath(garbagekeys.CLAIMS)
        count = 0
        for tenant_uid in self._names(base, only_folders=True):
            for name in self._names(base / tenant_uid):
                parsed = garbagekeys.parse_claim(f"{base}/{tenant_uid}/{name}")
                if parsed is not None:
                    count += self._reap_one(*parsed, before)
        return count

    def _reap_one(self, tenant_uid: str, digest: str, before: float) -> bool:
        path = PurePosixPath(garbagekeys.claim(tenant_uid, digest))
        status = self._status(path)
        if status is None or status.st_mtime >= before:
            return False
        if not stat.S_ISDIR(status.st_mode):  # a claim of a version before folders
            with _gone(), files.open_folder(self._root, path.parent) as above:
                os.unlink(path.name, dir_fd=above)
            return True
        for token in self._names(path):
            found = self._status(path / token)
            if found is not None and found.st_mtime < before:
                self._end(tenant_uid, digest, token)
        return self._rmdir(path)

    def _names(self, path: PurePosixPath, *, only_folders: bool = False) -> list[str]:
        with (
            _gone(),
            files.open_folder(self._root, path) as folder,
            os.scandir(folder) as found,
        ):
            return [each.name for each in found if not only_folders or each.is_dir(follow_symlinks=False)]
        return []

    def _status(self, path: PurePosixPath) -> os.stat_result | None:
        with _gone(), files.open_folder(self._root, path.parent) as folder:
            return os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        return None


def _sync(folder: int, name: str) -> None:
    """Make a file's time durable; what is no file has none that matters."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:
            raise
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    """Leave the block when what it needs is not there, or not any more."""
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise
