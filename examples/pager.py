#!/usr/bin/env python3
"""Answers every group of page faults on the descriptor $RECORDFD_FD with Success.

  recordfd exec --format iommufd.pgfault --from examples/data/faults.hex -- python3 examples/pager.py
"""

import os
import struct

# struct iommu_hwpt_pgfault and struct iommu_hwpt_page_response of Linux, as recordfd.h has them.
FAULT = struct.Struct("=6IQ2I")  # flags, dev_id, pasid, grpid, perm, reserved, addr, length, cookie
RESPONSE = struct.Struct("=2I")  # cookie, code
LAST_PAGE = 1 << 1
SUCCESS = 0

fd = int(os.environ["RECORDFD_FD"])
pending = b""
while data := os.read(fd, 64 * FAULT.size):
    pending += data
    whole = len(pending) - len(pending) % FAULT.size
    for flags, dev_id, pasid, _, _, _, addr, _, cookie in FAULT.iter_unpack(pending[:whole]):
        print(f"device {dev_id}, PASID {pasid}: {addr:#x}", flush=True)
        if flags & LAST_PAGE:
            os.write(fd, RESPONSE.pack(cookie, SUCCESS))
    pending = pending[whole:]
