"""Data kept between kernels: a table's rows, so that a notebook has them before the network."""
