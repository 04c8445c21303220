"""How messages move. :mod:`base` is the seam, :mod:`zmq` the real thing, :mod:`memory` the shipped fake."""
