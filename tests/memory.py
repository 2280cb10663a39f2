"""How much memory a call takes besides what it is given."""

import tracemalloc


def peak_of(call):
    """Bytes of Python and NumPy at the highest point of call()."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
