"""`python -m gankit`, which torchrun needs: `torchrun --nproc-per-node 2 -m gankit train ...`."""

from gankit.cli.app import main

main()
