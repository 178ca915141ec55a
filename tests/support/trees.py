"""What a whole tree looks like, in one digest. Its source is also sent to nodes: so it imports what it needs itself."""

from __future__ import annotations

import inspect


def digest_of(root, times):  # type: ignore[no-untyped-def]  # as text, on any Python
    """Of paths, modes, sizes, links and bytes, and with `times` of when files were changed; and how many files it has."""
    import hashlib
    import os
    import stat

    digest = hashlib.sha256()
    files = 0
    for directory, names, others in os.walk(root):
        names.sort()
        for name in sorted(names + others):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            size, content = 0, b""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path).encode()
            elif stat.S_ISREG(status.st_mode):
                files += 1
                with open(path, "rb") as file:
                    size, content = status.st_size, file.read()
            assert not size or size == len(content)
            # What was compiled may be newer.
            stamp = int(status.st_mtime) * bool(size) * (not name.endswith(".pyc")) * times
            line = (os.path.relpath(path, root), oct(status.st_mode), size, stamp)
            digest.update(repr(line).encode() + hashlib.sha256(content).digest())
    return digest.hexdigest(), files


DIGEST_OF = inspect.getsource(digest_of)
