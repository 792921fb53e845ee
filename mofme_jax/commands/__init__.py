"""The commands of `mofme`, a module each: thin layers over functions that can be called from Python as well.

The imports are in the functions: each command waits for its own libraries only.
"""
