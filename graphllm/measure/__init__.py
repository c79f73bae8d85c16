"""What a plan does, measured: whether it fits, how fast it is, how good, where two ways of computing it part.

Each tool is a function that returns plain data (``as_json``) and another that makes text of it; the command line only
chooses. Devices are used through their protocol, so a tool works with every target there is.
"""
