"""Reading data: arrays, files, image folders and the built-in digits become a :class:`~tightbound.data.arrays.Dataset`."""
