"""Lab 2's questions with numbers for answers. Each function draws its numbers and returns (question, answer)."""


def walk_slots(rng):
    gva = rng.randrange(1 << 47) & ~0xfff
    return (f"Which entry of the page directory does address {gva:#x} use? (decimal, from 0)", gva >> 21 & 511)


QUESTIONS = [walk_slots]
