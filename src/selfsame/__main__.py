"""python -m selfsame"""

import sys

from selfsame.cli import main

sys.exit(main())
