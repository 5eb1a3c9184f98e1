"""Claims on a volume: folders, as a rename into a folder that is gone fails.

A claim is `gc/<tenant>/<hex>/<token>/`. Removing a blob is renaming it into its claim: the kernel, or the
server of a shared volume, does that only while the claim is there, and takes a claim away (rmdir) only while
nothing is in it. So there is no moment between a check and the removal, and no clock. What was renamed into a
claim is gone for everybody; whoever ends the claim, its owner or who reaps it, does what is left to do.
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
from manifestry.adapters.store.local import files
from manifestry.adapters.store.local.records import Run
from manifestry.core.blobs import garbagekeys, keys

_GARBAGE: Final = "garbage"
_DAMAGED: Final = "damaged"
_GONE: Final = frozenset({errno.ENOENT, errno.ESTALE})  # ESTALE: a folder on NFS that was removed elsewhere
_NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST})


class LocalClaims:
    """See `claim_ports.Claims`.

    Args:
        root: the store's folder.
        run: how the store runs what blocks.
    """

    def __init__(self, root: Path, run: Run) -> None:
        self._root = root
        self._run = run

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

    def _make(self, tenant_uid: str, digest: str) -> Claim | None:
        path, token = PurePosixPath(garbagekeys.claim(tenant_uid, digest)), str(uuid.uuid4())
        with files.open_folder(self._root, path.parent, create=True) as claims, _gone():
            try:
                os.mkdir(path.name, 0o700, dir_fd=claims)
            except FileExistsError:
                return None
            with files.open_folder(self._root, path) as claim:
                os.mkdir(token, 0o700, dir_fd=claim)
                status = os.stat(token, dir_fd=claim, follow_symlinks=False)
            return Claim(tenant_uid, digest, datetime.fromtimestamp(status.st_mtime, UTC), token)
        return None  # it was taken for an abandoned one before it was complete

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
        # Removed from there and not from here: a file that somebody on the same node reads would stay on NFS
        # under another name in its folder, and the claim with it. Killed in between it is a left-over upload.
        spare = keys.upload(str(uuid.uuid4()))
        to = PurePosixPath(quarantine if name == _DAMAGED else spare)
        with _gone(), files.open_folder(self._root, to.parent, create=True) as there:
            os.rename(name, to.name, src_dir_fd=claim, dst_dir_fd=there)
            if name == _DAMAGED:
                os.fsync(there)
            else:
                with contextlib.suppress(IsADirectoryError):  # never ours; the left-over is seen as such
                    os.unlink(to.name, dir_fd=there)

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


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    """Leave the block when what it needs is not there, or not any more."""
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise
