"""`python -m nitro_lab` is `nitro-lab`."""

from nitro_lab.cli import main

raise SystemExit(main())
