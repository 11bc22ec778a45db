#!/usr/bin/env python3
"""Makes the seed corpus in seeds/ from the recorded bytes in ../tests/data.

The output depends on those files alone: run it again after a change and check the result in.
"""

import json
import pathlib
import random
import re
import shutil
import struct

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent / "tests" / "data"
SEEDS = HERE / "seeds"
TARGET = (HERE / "fuzz_targets" / "records.rs").read_text()
# The number of each type, read from the target so that the two cannot disagree.
KINDS = {name: int(number) for number, name in re.findall(r"^ +(\d+) => check::<(.+)>\(", TARGET, re.M)}
KINDS["Mixed"] = int(re.search(r"^ +(\d+) => check_mixed\(", TARGET, re.M)[1])

# Likewise the number of each kind of hardware record.
SAID = (HERE.parent / "uapi" / "tests" / "hw" / "said.rs").read_text()
FORMATS = re.findall(r'^ +\("(\S+)", \d+\),$', SAID, re.M)

LOST, CANCELLED = 1, 2


def kernel():
    """The HEX lines of the kernel log as (name, bytes)."""
    for line in (DATA / "golden.txt").read_text().splitlines():
        if line.startswith("HEX|"):
            _, name, length, digits = line.split("|")
            assert len(digits) == 2 * int(length), line
            yield name, bytes.fromhex(digits)


def vectors(wanted):
    """The vectors of one format as (name, bytes)."""
    for vector in json.loads((DATA / "vectors.json").read_text()):
        if vector["format"] == wanted:
            yield vector["name"], bytes.fromhex(vector["hex"])


def words(*values):
    return struct.pack(f"<{len(values)}I", *values)


def write(target, name, data):
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    assert not path.exists(), path
    path.write_bytes(data)


def record(kind, name, data):
    write("records", name, bytes([KINDS[kind]]) + data)


def records(log):
    fault = log["fault.basic"]
    record("PgFault", "pgfault.kernel", fault)
    record("Event<PgFault>", "pgfault.cancelled", words(CANCELLED, 3) + fault)
    record("PageResponse", "page_response.kernel", log["response.invalid"])
    for name, data in vectors("iommufd.pgfault"):
        record("PgFault", f"pgfault.{name}", data)
    for name, data in vectors("iommufd.vevent_header"):
        record("EventHeader", f"header.{name}", data)
    # Streams of the selftest's queue; no single event is that long, so only the walk reads them.
    for name in ["vev.one", "vev.overflow.all", "vev.gap.rest", "vev.realloc"]:
        record("Event<Selftest>", name, log[name])
    for name, data in list(vectors("smmuv3.event"))[:2]:
        record("Smmuv3Event", f"smmuv3.{name}", data)
        record("Event<Smmuv3Event>", f"smmuv3.event.{name}", words(0, 1) + data)
    stream = words(LOST, 4)
    for sequence, (name, data) in enumerate(vectors("tegra241.vevent"), start=5):
        record("Tegra241CmdqvEvent", f"tegra241.{name}", data)
        stream += words(0, sequence) + data
    record("Event<Tegra241CmdqvEvent>", "tegra241.event", stream[8:32])
    record("Event<Tegra241CmdqvEvent>", "tegra241.stream", stream)

    genl = dict(vectors("acpi.genl_event"))["power_button"]
    record("AcpiGenlEvent", "acpi.genl_event", genl)
    # The names of the kernel's event, in the longer fields of the notification.
    notify = words(1, 0x80, 1, 7) + genl[20:35].ljust(16, b"\0") + genl[:20].ljust(24, b"\0")
    record("AcpiNotify", "acpi.notify", notify)
    record("Event<AcpiNotify>", "acpi.event", words(0, 2) + notify)
    record("Event<AcpiNotify>", "acpi.lost", words(LOST, 9) + bytes(56))
    record("AcpiOst", "acpi.ost", words(7, 0x80, 0, 0))

    error = words(3, 5) + struct.pack("<HH", 1, 2) + words(0x5, 0x4000, 0, 1, 2, 3, 4)
    record("PciError", "pci.error", error)
    record("Event<PciError>", "pci.event", words(0, 3) + error)
    record("Event<PciError>", "pci.cancelled", words(CANCELLED, 4) + error)
    record("PciErrorResult", "pci.result", words(5, 3))
    # In Flit mode: 14 dwords of header.
    longer = error[:12] + words(0xd, 0x4000, 0, 0x4000, 14, *range(14))
    record("Event<PciErrorV2>", "pci.event_v2", words(0, 3) + longer)
    record("Event<PciErrorV2>", "pci.cancelled_v2", words(CANCELLED, 4) + longer)
    request = words(3, 6, 1, 0)
    record("DeviceRequest", "device.request", request)
    record("Event<DeviceRequest>", "device.event", words(0, 4) + request)
    record("DeviceAck", "device.ack", words(6, 0))

    record("Mixed", "mixed.acpi", words(4 << 16 | 1, 0, 1, 2, 0, 2) + notify)
    record("Mixed", "mixed.pgfault", words(1 << 16 | 1, 0, 2, 3) + fault.ljust(64, b"\0"))
    record("Mixed", "mixed.lost", words(0, LOST, 5, 0) + bytes(64))
    record("Mixed", "mixed.lost_with_source", words(0, LOST, 5, 3) + bytes(64))
    record("ChannelInfo", "channel_info", words(4 << 16 | 1, 2, 64, 0))


def offers():
    def offer(size, depth=64):
        head = struct.pack("<IHHIIIIII", size, 1, 1, 4 << 16 | 1, 0, depth, 64, depth, 16)
        return head + struct.pack("<QQQQ", 4096, 8192, 12288, 0)

    write("offer", "first_version", offer(64))
    write("offer", "longer_zero_tail", offer(80) + bytes(16))
    write("offer", "longer_unknown_tail", offer(80) + bytes(15) + b"\1")
    write("offer", "trailing_bytes", offer(64) + bytes(8))
    write("offer", "short", offer(56)[:56])
    write("offer", "flags_in_use", offer(64)[:12] + words(1) + offer(64)[16:])
    write("offer", "reserved_in_use", offer(64)[:56] + words(1, 0))


def attach():
    """Changes of a good offer, as the target reads them: who attaches, two depths, then what is changed and how."""
    abi_min, abi_max, form, flags, depth, record_size, reply_depth, reply_size, records, replies, size = range(11)
    exactly, lines, half, power, beyond = range(5)

    def seed(name, *changes, role=0, depths=(6, 6)):
        data = bytes([role, *depths])
        for field, how, value in changes:
            data += struct.pack("<BBQ", field, how, value % (1 << 64))
        write("attach", name, data)

    for role in [0, 1]:
        for depths in [(0, 0), (6, 6), (20, 20), (3, 12), (12, 3)]:
            seed(f"good.{role}.{depths[0]}.{depths[1]}", role=role, depths=depths)
        seed(f"wrong_end.{role}", (flags, exactly, role), role=role)
        seed(f"less_deep.{role}", (depth, half, 1), (reply_depth, half, 2), role=role)
    for name, field in [("abi_min", abi_min), ("abi_max", abi_max), ("format", form), ("depth", depth)]:
        seed(f"{name}.next", (field, lines, 1))
        seed(f"{name}.0", (field, exactly, 0))
    for name, field in [("record_size", record_size), ("reply_size", reply_size), ("reply_depth", reply_depth)]:
        seed(f"{name}.0", (field, exactly, 0))
        seed(f"{name}.power", (field, power, 31))
    for beyond_end in [0, 1, 4095, 4096, 4097]:
        seed(f"beyond.{beyond_end}", (size, beyond, beyond_end))
    for name, move in [("page", 32), ("page_and_line", 33)]:
        seed(f"spread.{name}", (records, lines, move), (replies, lines, 2 * move), (size, beyond, 1))
        seed(f"between.{name}", (replies, lines, move), (size, beyond, 1))
    seed("swapped", (replies, exactly, 0), (records, exactly, 384 + 64 * 16), (size, beyond, 1))
    seed("overlap", (replies, lines, -1))
    seed("onto_each_other", (replies, exactly, 0))
    seed("whole_pages", (size, exactly, 8192))
    seed("largest", (size, exactly, -1))
    seed("end_of_numbers", (records, exactly, -128))
    seed("memory_of_64_tib", (replies, power, 46), (size, beyond, 1))


def netlink(log):
    for name in ["powerbtn.1", "battery.info", "thermal.trip", "ac.bus_check"]:
        write("netlink", name, log[name])
    write("netlink", "three_messages", log["ac"] + log["battery.status"] + log["sleepbtn"])
    message = log["battery.info"]
    # An attribute the kernel may add one day, of a length that needs padding, before the event.
    longer = words(len(message) + 8) + message[4:20] + bytes([7, 0, 99, 0, 1, 2, 3, 0]) + message[20:]
    write("netlink", "unknown_attribute", longer + message)
    done = words(20) + struct.pack("<HH", 3, 2) + words(1, 0, 0)
    write("netlink", "control_done", done)
    foreign = message[:16] + b"\2" + message[17:]
    write("netlink", "between_others", done + message + foreign + message + message[:50])
    write("netlink", "cut_off", message[:50])


def fault(log):
    """Decisions of the target, one byte each unless its bound needs more; see `step` in each mode."""
    honest, from_reporter, from_responder = 0, 1, 2

    # Both ends are ours: how the channel is made, then any calls.
    any_calls = random.Random(1)
    for make, name in enumerate(["local", "made_by_reporter", "made_by_responder"]):
        for headed in [0, 1]:
            for way, end in enumerate(["settled", "responder_goes", "reporter_goes"]):
                made = bytes([honest, make, 1 - headed, 7 + 8 * way, way])
                write("fault", f"honest.{name}.v{1 + headed}.{end}", made + any_calls.randbytes(600))

    # The peer reports: records are put together, written and received.
    def record(cookie, kind=10, number=b""):
        return bytes([0, cookie, kind]) + number

    def raw(data):
        return bytes([3, len(data)]) + data

    # Each group that is received is kept.
    def receive(groups=0):
        return bytes([7, 1, 8]) + bytes(groups)

    def try_receive(groups=0):
        return bytes([9, 1]) + bytes(groups)

    written = bytes([5, 0xFF, 0xFD])
    respond, answers, look, hang_up = bytes([10, 0]), bytes([14]), bytes([13]), bytes([15, 0])
    part = 24

    def reporter(name, *steps, headed=False, depth=4):
        made = bytes([from_reporter, 0 if headed else 1, depth - 1])
        write("fault", f"reporter.{name}", made + b"".join(steps))

    reporter("kernel", raw(log["fault.basic"]), written, try_receive(1), look)
    reporter("answered", record(3), written, try_receive(1), respond, answers)
    reporter("dropped", record(3), record(4), written, receive(2), bytes([12, 12]), answers)
    reporter("by_cookie", record(3), written, receive(), bytes([1, 11, 1, 1, 0]), answers)
    reporter("three_pages", record(3, part) * 2, record(3), written, receive(1), look, hang_up)
    reporter("page_by_page", record(3, part), written, try_receive(), record(3), written, try_receive(1))
    reporter("no_cookie", record(12), written, try_receive())
    reporter("other_cookie", record(3, part), record(4), written, receive())
    reporter("other_device", record(3, part), record(3, 30, b"\x08"), written, receive())
    reporter("cookie_again", record(3) * 2, written, receive(1), try_receive())
    reporter("too_many", record(3), record(4), record(5), written, receive(2), look, receive(), depth=2)
    reporter("long_group", bytes([4, 1, 0xA0]), (written + try_receive()) * 8)
    reporter("torn", record(3), bytes([5, 0, 17]), receive(), hang_up, try_receive())
    reporter("cancelled", record(3), record(3, 0), written, receive(1), receive(), look, headed=True)
    reporter("gap", record(3), record(4, 31, words(9)), written, receive(1), receive(), headed=True)

    # The peer answers: groups are reported, answers put together, written and collected.
    def report(device, pages):
        return bytes([0, device, pages - 1])

    def answer(code, lately=b""):
        return bytes([4, 1]) + lately + bytes([code])

    some, collect, detach = bytes([8, 255]), bytes([10, 12]), bytes([13, 0])
    expire, read, bad = bytes([14, 1]), bytes([15, 1]), bytes([0]) + words(7)

    def responder(name, *steps, headed=False):
        made = bytes([from_responder, 0 if headed else 1, 3, 3, 1])
        write("fault", f"responder.{name}", made + b"".join(steps))

    responder("answered", report(0, 1), read, answer(2), some, collect)
    responder("three_pages", report(0, 3), read, answer(1), some, collect)
    responder("bad_code", report(0, 1), bytes([4, 1]) + bad, some, collect)
    responder("made_up", report(0, 1), bytes([4, 0]) + words(99) + b"\2", some, collect, hang_up)
    responder("twice", report(0, 1), answer(2) * 2, some, collect, collect)
    responder("late", report(0, 1), detach, answer(2), some, collect, report(0, 1), headed=True)
    responder("expired", report(0, 1), report(1, 2), expire, collect, answer(2, b"\1"), some, collect)
    responder("torn", report(0, 1), answer(2), bytes([8, 5]), hang_up, collect)
    responder("gone", report(0, 1), answer(2), some, hang_up, collect, report(1, 1))


def request():
    """Decisions of the target as in `fault`: the kind and who is hostile, how the channel is made, then steps."""
    errors, requests = 0, 1

    def step(*decisions):
        return bytes(decisions)

    # The peer reports: records are put together, written and received.
    def record(cookie, kind=17, number=b""):
        return bytes([0, cookie, kind]) + number

    def again(cookie, count):
        return record(cookie, 6, bytes([count]))

    written, receive, keep = bytes([6, 0x0F, 0xFF]), bytes([8, 0]), bytes([8, 1])
    respond, drop, look, answers, hang_up = step(11), step(13), step(14), step(15, 1), step(15, 0)

    def reporter(name, *steps, depth=4):
        for kind, record_name in [(errors, "pci"), (requests, "device")]:
            made = bytes([kind, depth - 1])
            write("request", f"reporter.{record_name}.{name}", made + b"".join(steps))

    reporter("answered", record(3), written, receive, respond, answers)
    reporter("dropped", record(3), record(4), written, receive * 2, drop * 2, answers)
    reporter("by_cookie", record(3), written, keep, step(12, 0, 0), step(12, 0, 2), answers)
    reporter("no_cookie", record(12), written, receive)
    reporter("cookie_again", record(3) * 2, written, receive * 2)
    reporter("too_many", record(1), record(2), record(3), written, receive * 3, look, depth=2)
    reporter("cancelled", record(3), record(3, 0) * 2, written, receive * 2, look * 2, respond)
    reporter("cancelled_unknown", record(5, 0), record(3), written, receive * 2, look)
    reporter("gap", record(3), record(4, 5, words(9)), written, receive * 2)
    reporter("flags", record(3, 4, words(0xFF)), written, receive)
    reporter("repeated", record(3), again(3, 1), again(3, 2), written, receive * 2, look * 2, respond, answers)
    reporter("repeated_back", record(3), again(3, 5), again(3, 2), written, receive * 2, look * 2)
    reporter("repeat_unknown", again(3, 1), record(3), written, receive * 2, look)
    reporter("repeat_crossed", record(3), written, receive, respond, again(3, 1), record(3), written, receive * 2)
    reporter("repeat_cancelled", record(3), record(3, 0), again(3, 4), written, receive * 2, look)
    reporter("repeats", record(3), *[again(3, count % 6) for count in range(1, 40)], written * 4, receive * 40)
    reporter("torn", record(3), bytes([6, 0, 17]), receive, hang_up, receive)

    # The peer answers: requests are reported, answers put together, written and collected.
    def report(device, number=4):
        return bytes([0, device, number, 3])

    def release(device):
        return bytes([0, device, 5])

    def answer(code, lately=b""):
        return bytes([4, 1]) + lately + bytes([code])

    some, collect, detach = step(8, 255), step(9, 12), step(12, 0)
    read, drain, full = step(15, 1), step(15, 4, 0), bytes([0]) + words(7)

    def hour(number):
        return step(13, number)

    def responder(kind, name, *steps, depth=4):
        made = bytes([kind, depth - 1, 3, 1])
        record_name = "pci" if kind == errors + 2 else "device"
        write("request", f"responder.{record_name}.{name}", made + b"".join(steps))

    for kind, ask in [(errors + 2, report), (requests + 2, release)]:
        yes = 2 if kind == errors + 2 else 6
        responder(kind, "answered", ask(0), read, answer(yes), some, collect, ask(0))
        responder(kind, "bad_code", ask(0), bytes([4, 1, 0]) + full, some, collect)
        responder(kind, "made_up", ask(0), bytes([4, 0]) + words(99) + b"\2", some, collect, hang_up)
        responder(kind, "twice", ask(0), answer(yes) * 2, some, collect * 2)
        responder(kind, "late", ask(0), detach, answer(yes), some, collect, ask(0), read)
        responder(kind, "expired", ask(0), ask(1), hour(4), collect, answer(yes, b"\1"), some, collect)
        responder(kind, "torn", ask(0), answer(yes), step(8, 5), hang_up, collect)
        responder(kind, "gone", ask(0), answer(yes), some, hang_up, collect, ask(1))
        responder(kind, "full", ask(0), ask(1), ask(2), ask(3), detach, collect, ask(0), read, depth=2)
        responder(kind, "drained", ask(0), drain, answer(yes), some, drain, collect)

    # CAN_RECOVER, RECOVERED, RECOVERED.
    course = [report(0, 4), answer(2), some, collect, report(0, 1), answer(5, b"\0"), some, collect]
    responder(errors + 2, "recovered", *course, report(0, 3), answer(5, b"\0"), some, collect, read)
    responder(errors + 2, "out_of_order", report(0, 4), report(0, 3), answer(3), some, collect, report(0, 1))
    responder(requests + 2, "repeated", release(0), hour(1), hour(2), read, answer(6), some, hour(3), collect)
    repeats = b"".join(hour(1 + number % 3) for number in range(30))
    responder(requests + 2, "repeats_full", release(0), release(1), repeats, read, hour(3), read)
    responder(requests + 2, "repeat_detached", release(0), hour(1), detach, hour(2), read, hour(3), collect)


def shared():
    """Decisions of the target as in `fault`: the end under test, how the channel is made, then steps."""
    sender, receiver, reporter, responder = range(4)
    tail, tail_loss, gone, head, fences, armed, drain = range(7)
    ours, the_peers, spoiled = 0, 2, 3

    def made(role, maker, depth=4, headed=False):
        """With room for 2^depth records and 8 replies, and answers where there are some."""
        form = b"" if role in (sender, receiver) else bytes([0 if headed else 1])
        return bytes([role]) + form + bytes([depth, 3, maker])

    def act(*decisions):
        return bytes([0]) + bytes(decisions)

    # What the peer does, but for what it publishes; `its` ring is the one that it produces.
    take, untake, bell = act(5, 7), act(11), act(13)
    tokens, shut, hang_up, hole = act(10, 3), act(15, 0, 2), act(15, 0, 3), act(14, 0, 0, 255, 31)
    fd, out_of_band = act(14, 1, 0, 0), act(14, 1, 0, 1)

    def word(which, value, its=True):
        return act(8, 0 if its else 1, which, value)

    def add(which, number, its=True):
        return act(8, 0 if its else 1, which, 6, number + 3)

    def number(which, value, its=True):
        return act(8, 0 if its else 1, which, 3, value)

    def wish(which, value, its=True):
        return act(12, 1, 0 if its else 1, which, value)

    def slot(at, value, its=True, which=0):
        return act(9, 0 if its else 1, which, 0, at, value)

    ones, zero, far = 2, 0, 7

    def to_all(role, publish, read, other, extra):
        """What is tried with each of the four ends: `read` receives, `other` sends, answers or looks."""
        both = publish + read + other + take + bell + untake + read
        ways = {
            "rules": both * 8,
            "tail_far": both * 2 + word(tail, ones) + read * 3 + other + read,
            "tail_back": both * 2 + add(tail, -1) + read + other + read,
            "tail_ahead": both + add(tail, 2) + read * 3 + publish + read * 2,
            "head_far": both * 2 + word(head, ones, its=False) + (other + read) * 6,
            "head_back": both * 2 + add(head, -2, its=False) + (other + read) * 6,
            "own_words": both + word(tail, ones, its=False) + word(head, ones) + both * 2,
            "loss": both + number(tail_loss, 20) + read + publish + read + number(tail_loss, 20) + read * 2,
            "gone": publish * 2 + word(gone, 1) + (read + other) * 4 + word(gone, zero) + publish + read,
            "stray": both + tokens + (read + other) * 4,
            "claims": (wish(0, 0) + read) * 4 + tokens + read + both + tokens * 2 + read * 3,
            "drain": (wish(1, 1) + both) * 3 + untake + wish(1, 0, its=False) + other + read,
            "wishes": (wish(0, 1, its=False) + other + take) * 8 + untake + both,
            "shut": both + shut + (read + other) * 5,
            "hang_up": publish + hang_up + (read + other) * 5,
            "hole": both * 2 + publish + hole + (read + other) * 4,
            "slot": publish + slot(3, 0x80) + read * 2 + both + publish + slot(7, 0x80) + read * 3 + other,
            "descriptors": both + fd + read * 2 + other,
            "out_of_band": both + out_of_band + read * 2 + other,
        }
        name = ["sender", "receiver", "reporter", "responder"][role]
        for index, (way, steps) in enumerate((ways | extra).items()):
            maker = ours if index % 2 else the_peers
            write("shared", f"{name}.{way}", made(role, maker, headed=index % 4 > 1) + steps)

    replies = act(1, 1, 3, 1, 5, 1)
    send, post = bytes([6, 2]), bytes([9])
    full = bytes([6, 19])
    losses = full + post * 4 + bytes([14, 0]) + take + post * 2 + bytes([14, 0]) + full + take + full
    # With 14 and 0 the sender waits for a drain, too.
    pretended = send + (bytes([14, 0]) + act(12, 0)) * 4 + bytes([11]) + take + bytes([14, 0, 11])
    extra = {"losses": losses, "pretended_drains": pretended}
    to_all(sender, replies, bytes([11, 11, 11]), send + post + bytes([14, 1]), extra)

    events = act(2, 2, 10, 10, 10)
    wait = bytes([3, 1, 0])
    busy = bytes([7, 0, 1]) + (events + wait + wait) * 3 + tokens + wait * 3
    gaps = act(1, 2, 1, 5, 10, 10) + bytes([3, 8]) + act(0, 0, 2, 1) + bytes([3, 8]) + wait
    to_all(receiver, events, bytes([3, 2]), bytes([6, 4, 7, 1]), {"gaps": gaps * 3, "busy": busy})

    def answers(*which, code=0):
        return act(0, len(which) - 1) + b"".join(bytes([one, code]) for one in which)

    report, pages, collect = bytes([6, 0, 0]), bytes([6, 2, 1]), bytes([9, 5, 1])
    detach, expire, drain_device = bytes([13, 0]), bytes([14, 2]), bytes([15, 0])
    ways = {
        "answered": (report * 3 + pages + answers(0, 1, 2) + collect) * 4,
        "twice": report * 2 + answers(0, 0, 1, 1) + collect + answers(0, 1) + collect,
        "bad_code": report * 2 + answers(0, 1, code=15) + collect * 2,
        "late": report * 2 + detach + collect + answers(0, 1) + collect + report + drain_device,
        "made_up": report * 2 + act(0, 0, 15) + words(77) + bytes([0]) + collect,
        "half_made": pages + expire + collect + report + detach + collect,
    }
    to_all(reporter, answers(0), collect, report, ways)

    def group(count, kind=10):
        return act(0, count - 1) + bytes([0, kind]) * (count - 1) + bytes([1, kind])

    take_one, take_many, respond = bytes([6, 23, 0]), bytes([6, 23, 7, 7]), bytes([11])
    keep, batch, drop = bytes([14]), bytes([12, 0, 3]), bytes([13])
    ways = {
        "answered": (group(3) + take_one + respond + group(1) + take_many + drop + take) * 3,
        "busy": bytes([15, 0, 1]) + (group(1) + bytes([6, 23, 4]) * 2 + respond) * 3,
        "by_cookie": (group(2) + take_one + keep + group(1) + take_one + keep + batch + take) * 3,
        "small_slice": group(4) + bytes([6, 1, 0, 6, 2, 0, 6, 4, 0]) + respond,
        "unended": act(0, 0, 0, 10) + take_one + hang_up + take_one * 2,
        "other_device": act(0, 1, 0, 10, 1, 1, 2) + take_one * 2,
        "no_cookie": group(1) + act(0, 0, 1, 2) + take_one * 3 + respond,
        "unread_answers": (group(1) + take_one + respond) * 12 + take + group(1) + take_one + drop,
    }
    to_all(responder, group(1), take_one, respond + bytes([15, 1]), ways)

    # Offers with one field changed: which, and by how much.
    for field in range(12):
        for near in [1, 3]:
            role = field % 4
            changed = words(field * 0x01010101 + near) + bytes([near, 7, field])
            write("shared", f"offer.{field}.{near}", made(role, spoiled) + changed + events + bytes([3, 2, 9, 5]))


def formats():
    """Records of hardware alone, and for `formats` any values, faults and answers of each kind too."""
    decode, encode, faults, answers = range(4)
    assert FORMATS
    any_values = random.Random(2)
    for kind, name in enumerate(FORMATS):
        for vector, data in vectors(name):
            data = data.ljust(32, b"\0")
            write("formats_c", f"{name}.{vector}", bytes([kind]) + data)
            write("formats", f"{name}.{vector}", bytes([kind, decode]) + data)
        for way, what in [(encode, "values"), (faults, "faults")]:
            for index in range(4):
                write("formats", f"{name}.{what}.{index}", bytes([kind, way]) + any_values.randbytes(160))
    for index in range(8):
        write("formats", f"answers.{index}", bytes([0, answers]) + any_values.randbytes(160))


def main():
    shutil.rmtree(SEEDS, ignore_errors=True)
    log = dict(kernel())
    records(log)
    offers()
    attach()
    netlink(log)
    fault(log)
    request()
    shared()
    formats()


if __name__ == "__main__":
    main()
