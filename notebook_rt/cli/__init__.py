"""The command line: ``notebook-rt demo``, ``local``, ``doctor``, ``queue``."""
