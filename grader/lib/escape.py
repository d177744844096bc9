"""Text that students' programs wrote, made safe and readable for terminals, logs and continuous-integration services."""

# What stands for a byte that is not shown as it is. Logs have hundreds of thousands of bytes, so a table does the work.
_SHOWN = {byte: "\\x%02x" % byte for byte in (*range(32), *range(127, 256))}
_SHOWN.update({ord(byte): shown for byte, shown in (("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"), ("\\", "\\\\"))})


def _bytes(text):
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)


def visible(text, limit=400):
    """One line of printable ASCII. Newlines, escapes and bytes above 126 are written as in C; too long: the middle goes."""
    return _cap(_bytes(text).decode("latin-1").translate(_SHOWN), limit)


def _cap(text, limit):
    if len(text) <= limit:
        return text
    keep = (limit - 30) // 2
    return "%s ... %d characters ... %s" % (text[:keep], len(text) - 2 * keep, text[-keep:])


def block(text, limit_lines=40, limit_width=200, prefix="  | "):
    """Several lines, each visible() and prefixed, so that none can pass for a line of the grader's own or for a workflow
    command of the service that runs it. Too many: the middle goes."""
    lines = _bytes(text).split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    shown = [visible(line.rstrip(b"\r"), limit_width) for line in lines[: limit_lines // 2]]
    rest = lines[limit_lines // 2 :]
    if len(rest) > limit_lines // 2:
        shown.append("... %d lines left out ..." % (len(rest) - limit_lines // 2))
        rest = rest[-(limit_lines // 2) :]
    shown += [visible(line.rstrip(b"\r"), limit_width) for line in rest]
    return [prefix + line for line in shown]


def first_difference(expected, seen):
    """Index of the first byte that differs, or None when they are equal."""
    for i, (a, b) in enumerate(zip(expected, seen)):
        if a != b:
            return i
    return None if len(expected) == len(seen) else min(len(expected), len(seen))


def compare(expected, seen, width=96):
    """The lines that show two texts one below the other, with a mark under the first difference."""
    e, s = _bytes(expected), _bytes(seen)
    at = first_difference(e, s)
    if at is None:
        at = len(e)
    # Long texts are shown around the difference, whole lines before it are not needed.
    start = max(0, at - width // 2)
    dots = "..." if start else ""
    shown = []
    for text in (e, s):
        piece = visible(text[start : start + width], 10 * width)
        shown.append(dots + piece + ("..." if len(text) > start + width else ""))
    mark = len(dots) + len(visible(e[start:at], 10 * width))
    return ["expected   " + shown[0], "seen       " + shown[1], "           " + " " * mark + "^ first difference"]
