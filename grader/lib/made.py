"""Files that are made from others and kept."""

import os
import threading


def made(target, inputs, make):
    """target, after make(path) has written it anew if it is missing or older than one of the inputs. Several may do that at once."""
    newest = max(os.path.getmtime(path) for path in inputs)
    if os.path.exists(target) and os.path.getmtime(target) >= newest:
        return target
    os.makedirs(os.path.dirname(target), exist_ok=True)
    temporary = "%s.%d.%d" % (target, os.getpid(), threading.get_ident())
    try:
        make(temporary)
        os.replace(temporary, target)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return target
