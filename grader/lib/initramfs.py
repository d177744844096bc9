"""A cpio archive in the format that Linux unpacks as its first root file system (newc; initramfs-buffer-format.rst)."""

import os
import stat


class Initramfs:
    """Collects entries; bytes() is the archive. Uncompressed: unpacking would cost the emulated CPU more than reading does."""

    def __init__(self):
        self._parts = []
        self._inode = 1
        self._dirs = set()

    def _entry(self, path, mode, data=b"", rdev=(0, 0)):
        name = path.lstrip("/").encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(name), 0)
        self._inode += 1
        header = b"070701" + b"".join(b"%08X" % f for f in fields) + name
        header += b"\0" * (-len(header) % 4)
        self._parts += [header, data, b"\0" * (-len(data) % 4)]

    def directory(self, path, mode=0o755):
        path = path.strip("/")
        if not path or path in self._dirs:
            return
        self.directory(os.path.dirname(path))
        self._dirs.add(path)
        self._entry(path, stat.S_IFDIR | mode)

    def file(self, path, data, mode=0o644):
        self.directory(os.path.dirname(path))
        self._entry(path, stat.S_IFREG | mode, data)

    def copy(self, path, source, mode=0o644):
        with open(source, "rb") as f:
            self.file(path, f.read(), mode)

    def character_device(self, path, major, minor, mode=0o600):
        self.directory(os.path.dirname(path))
        self._entry(path, stat.S_IFCHR | mode, rdev=(major, minor))

    def bytes(self):
        trailer = Initramfs()
        trailer._entry("TRAILER!!!", 0)
        return b"".join(self._parts + trailer._parts)
