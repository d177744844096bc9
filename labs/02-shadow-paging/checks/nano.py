"""guests/nano.c seen from outside: its operations, and what it must report whatever runs it."""

from checks import first, reported

FAULT, TURNS, PTE, PTE_BULK, CR3, CR3_OTHER, SWITCH, FORK, RANDOM = range(1, 10)

COUNT = 1  # which of the params
MASK64 = (1 << 64) - 1


def params(operation, count, pages, writes, seed):
    return [operation, count, pages, writes, seed]


def _read(total, heap):
    for word in heap:
        total = (total * 3 + word) & MASK64
    return total


def _read_random(total, heap, count):
    x = 0
    for _ in range(count):
        x = (x * 6364136223846793005 + 1442695040888963407) & MASK64
        total = (total * 3 + heap[(x >> 33) % len(heap)]) & MASK64
    return total


def _write(heap, writes, add):
    for i in range(writes):
        heap[i * len(heap) // writes] += add


def _process(operation, count, heap, writes):
    """What one process computes."""
    total = 0
    if operation == RANDOM:
        return _read(_read_random(_read(total, heap), heap, count), heap)
    for n in range(count):
        if operation == FAULT:
            heap.append(n)
        elif operation == TURNS:
            total = _read(total, heap)
            _write(heap, len(heap), 1)
            heap.append(n)
        elif operation == SWITCH:
            total = _read(total, heap)
            _write(heap, len(heap), 1)
        elif operation == FORK:
            total = _read(total, heap)
            child = heap[:]
            _write(child, writes, 1)
            total = (total + _read(total, child)) & MASK64
            _write(heap, writes, 2)
    return _read(total, heap)


def expected(values):
    """key -> the numbers reported under it."""
    operation, count, pages, writes, seed, *_ = values
    processes = 1 if operation in (FAULT, FORK, RANDOM) else 2
    heaps = [[seed + k + i for i in range(pages)] for k in range(processes)]
    if operation in (PTE, PTE_BULK, CR3, CR3_OTHER):
        changed = {PTE: [(count - i + pages - 1) // pages for i in range(pages)], PTE_BULK: [count] * pages}
        return {"sum": [_read(0, heaps[0])], "writable": [sum(not n % 2 for n in changed.get(operation, [0] * pages))]}
    forked = count * (writes + 1) if operation == FORK else 0  # one more for the page of the stack
    return {
        "sum": [_process(operation, count, heap, writes) for heap in heaps],
        "demand": [count * processes if operation in (FAULT, TURNS) else 0],
        "copied": [forked], "reused": [forked],
        "switches": [{FAULT: 0, RANDOM: 0, FORK: 2 * count}.get(operation, 2 * count + 1)],
    }


def lines(values):
    """What it prints."""
    return ["%s=%x" % (key, number) for key, numbers in expected(values).items() for number in numbers]


def wrong_report(result, values, hint=None):
    """A Failure when the guest's memory, or the faults that it saw, were not what they have to be."""
    return first(*(reported(result, key, numbers, hint) for key, numbers in expected(values).items()))
