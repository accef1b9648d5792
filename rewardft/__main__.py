"""`python -m rewardft` is the `rewardft` command."""

import sys

from rewardft.cli import main

if __name__ == "__main__":
    sys.exit(main())
