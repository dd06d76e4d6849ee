"""`python -m servecast`."""

from .cli import main

raise SystemExit(main())
