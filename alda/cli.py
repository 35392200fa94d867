"""The command line: alda <command> ..."""

import sys
