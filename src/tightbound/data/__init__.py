"""Reading data: arrays, files, image folders and the digits become a :class:`~tightbound.data.arrays.Dataset`."""
