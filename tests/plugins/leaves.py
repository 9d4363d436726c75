"""A script without a main guard: importing it would end the program."""

import sys

sys.exit("this script takes two arguments")
