"""`python -m firmware_sim` is the command `firmware-sim`."""

from firmware_sim.cli import main

if __name__ == "__main__":
    main(prog_name="firmware-sim")
