"""Lab 4's questions with numbers for answers. Each function draws its numbers and returns (question, answer)."""

WRAP = 65536


def slots(size, rings):
    """Bytes of the three areas of a split queue, event words included."""
    return {"descriptor table": 16 * size, "available ring": 6 + 2 * size, "used ring": 6 + 8 * size}[rings]


def need_event(event, new, old):
    """2.7.10: is `event` among the indices from old on, before new?"""
    return (event - old) % WRAP < (new - old) % WRAP


def place_in_the_ring(rng):
    size, index = 1 << rng.randrange(3, 9), rng.randrange(1000, WRAP)
    return (f"A split queue has {size} entries; the available index is {index}. In which entry of ring[] does the driver put the next "
            f"chain?", index % size)


def chains_waiting(rng):
    size = 1 << rng.randrange(6, 9)
    taken, waiting = WRAP - rng.randrange(1, 40), rng.randrange(40, size - 1)
    return (f"A split queue has {size} entries. The device has taken chains up to index {taken}; the driver's available index is "
            f"{(taken + waiting) % WRAP}. How many chains wait?", waiting)


def area_size(rng):
    size, area = 1 << rng.randrange(3, 9), rng.choice(("descriptor table", "available ring", "used ring"))
    return (f"How many bytes is the {area} of a split queue with {size} entries long, with the word for the event index behind the rings?",
            slots(size, area))


def address_of_avail_event(rng):
    size, at = 1 << rng.randrange(3, 9), rng.randrange(0x1000, 0x8000) << 8
    return (f"The used ring of a split queue with {size} entries begins at {at:#x}. At which address is avail_event?", at + 4 + 8 * size)


def used_length_of_a_read(rng):
    sectors, cuts = rng.randrange(1, 64), rng.randrange(2, 6)
    return (f"A driver reads {sectors} sectors of 512 bytes from a virtio disk, into {cuts} descriptors, with the status byte in one of "
            f"its "
            f"own. The request succeeds. Which length is in the used ring?", sectors * 512 + 1)


def used_length_of_a_write(rng):
    sectors = rng.randrange(1, 64)
    return f"And when it writes {sectors} sectors?", 1


def descriptors_of_a_request(rng):
    pages, offset = rng.randrange(2, 20), rng.randrange(1, 8) * 512
    return (f"A driver makes a block request of {pages * 4096} bytes to a buffer that begins {offset} bytes into a page of 4 KiB; no two "
            f"of the "
            f"pages lie together in guest-physical memory. Header and status have a descriptor each. How many descriptors is the chain "
            f"long?", pages + 1 + 2)


def indirect_table(rng):
    buffers = rng.randrange(3, 100)
    return (f"A chain of {buffers} buffers is put into an indirect table. Which value has len in the descriptor that names the table?",
            16 * buffers)


def requests_in_a_queue(rng):
    size, each = 1 << rng.randrange(5, 9), rng.randrange(3, 8)
    return (f"Each request is a chain of {each} descriptors, the queue has {size} entries. How many more requests can be in flight with "
            f"indirect tables than without?", size - size // each)


def interrupts_with_the_event_index(rng):
    start, batches = rng.randrange(1000, 60000), [rng.randrange(1, 9) for _ in range(6)]
    event = start + rng.randrange(sum(batches))
    count, at = 0, start
    for batch in batches:
        count += need_event(event % WRAP, (at + batch) % WRAP, at % WRAP)
        at += batch
    return (f"EVENT_IDX is agreed on; the used index is {start} and used_event {event}, and the driver never changes it. The device gives "
            f"chains back in batches of {', '.join(map(str, batches))} and asks after each whether to interrupt. How many interrupts "
            f"does it "
            f"raise?", count)


def kicks_with_the_event_index(rng):
    start = WRAP - rng.randrange(2, 20)
    batches = [rng.randrange(1, 12) for _ in range(5)]
    event = (start + rng.randrange(sum(batches) + 10)) % WRAP
    at, kicks = start, 0
    for batch in batches:
        kicks += need_event(event, (at + batch) % WRAP, at % WRAP)
        at += batch
    return (f"The available index is {start}, avail_event is {event} and stays it. The driver adds chains in batches of "
            f"{', '.join(map(str, batches))}. How often does it kick?", kicks)


def feature_words(rng):
    bits = sorted(rng.sample((5, 6, 9, 13, 14, 28, 29), 3)) + [32] + ([34] if rng.randrange(2) else [])
    half = rng.randrange(2)
    value = sum(1 << bit for bit in bits) >> 32 * half & 0xFFFFFFFF
    return (f"A device offers the feature bits {', '.join(map(str, bits))}. What does DeviceFeatures read as with DeviceFeaturesSel = "
            f"{half}?",
            value)


def status_value(rng):
    steps = rng.randrange(1, 5)
    done = ("ACKNOWLEDGE", "DRIVER", "FEATURES_OK", "DRIVER_OK")[:steps]
    value = sum((1, 2, 8, 4)[:steps])
    broken = steps == 4 and rng.randrange(2)
    return (f"A driver has set {', '.join(done)}, and the device agreed{'; then a chain went round in a circle' if broken else ''}. "
            f"Which value "
            f"does Status read as?", value | 0x40 * broken)


def register_address(rng):
    slot = rng.randrange(8)
    name, offset = rng.choice((("QueueNotify", 0x50), ("InterruptACK", 0x64), ("Status", 0x70), ("QueueReady", 0x44)))
    return (f"Our devices lie 4 KiB apart from 0xd0000000 on. At which gpa is {name} of the device in slot {slot}?",
            0xD0000000 + slot * 4096 + offset)


def net_buffers(rng):
    frame, size = rng.randrange(200, 9000), rng.choice((256, 512, 1024, 1536))
    return (f"A frame of {frame} bytes arrives, MRG_RXBUF is agreed on, and every receive buffer has {size} bytes. What is num_buffers?",
            -(-(frame + 12) // size))


def packed_flags(rng):
    size = rng.randrange(5, 200)
    slot = rng.randrange(size * 3)
    wrap = 1 - slot // size % 2
    return (f"A packed queue has {size} entries and every chain one descriptor. What are the flags of the descriptor with which the driver "
            f"makes its chain number {slot} available, counted from 0, if the device is to read the buffer? (AVAIL is bit 7, USED bit 15.)",
            wrap << 7 | (1 - wrap) << 15)


QUESTIONS = [place_in_the_ring, chains_waiting, area_size, address_of_avail_event, used_length_of_a_read, used_length_of_a_write,
             descriptors_of_a_request, indirect_table, requests_in_a_queue, interrupts_with_the_event_index, kicks_with_the_event_index,
             feature_words, status_value, register_address, net_buffers, packed_flags]
