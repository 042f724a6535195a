r"""Tecan Cavro XCalibur: syringe pump with a valve, on RS-232 or RS-485, OEM protocol.

Source: Tecan 733085-B, Cavro XCalibur operating manual: 3.2.1 OEM protocol, 3.3 command strings, 3.4
set-up and moves, 3.5 control and report commands, 3.6 status and errors (table 3-9); known here by its
golden frames. What they leave open (repeat flag, errors after the acknowledgement, what `T` and `Q` do)
was read in the manuals of its siblings with the same protocol: XP 3000, 725730C, p. 3-4 to 3-7, 3-46;
XLP 6000, 734237-C, p. 3-42 to 3-50. Unconfirmed until a real pump has been seen: 6000 pulses a stroke,
plunger force by syringe size, `?202`.

    host    02  │ 31      │ 31            │ 49 41 33 30 30 30 52 │ 03  │ xor
            STX │ address │ 0011 REP SQ   │ command, "IA3000R"   │ ETX │ of STX … ETX
    pump    02  │ 30      │ 01X0eeee      │ data, "3000"         │ ETX │ xor
            STX │ host    │ X ready, e error

Address switch 0…E is 31…3F on the wire: `address` here counts from 1. An answer begins within 5 ms and
does not say who sent it or what it answers, so there is only ever one request on a line.

What makes a move happen once and only once:

- The target is absolute (`A<increment>`), computed from the plunger position that the pump has just told.
- A command that got no answer within 100 ms is sent again with REP set and the same sequence number: a
  pump that has executed it acknowledges only. Questions are harmless: they get a new number each time.
- When the pump is ready, the plunger must stand at the target, whatever was acknowledged.

`T` stops the plunger, not a turning valve, and steps may get lost (3.5): initialise before the next exact
volume. An `R` alone would resume a stopped string: this driver never sends one. `Q` clears the error it
reports, except "not initialised". ?202 (serial number) is not in every firmware; a pump that does not
know it has no serial number here, and `identity` cannot be checked.
"""

from __future__ import annotations

from drivers.liquid.cavro_xcalibur.pump import CavroXCalibur

__all__ = ["CavroXCalibur"]
