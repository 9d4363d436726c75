"""``python -m snn_perception.native`` builds the kernels: see `build`."""

import sys

from snn_perception.native.build import main

if __name__ == "__main__":
    sys.exit(main())
