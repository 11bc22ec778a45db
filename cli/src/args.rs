//! The command line.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use recordfd::uapi::hw::GuestPolicy;

use crate::convert::Given;
use crate::formats::{self, Format};
use crate::text;

/// Shows, converts, feeds and watches device-event records.
#[derive(Debug, Parser)]
#[command(name = "recordfd", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the formats: names, sizes, replies, protocols
    #[command(after_help = FORMATS_HELP)]
    Formats {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Turn records into JSON
    #[command(after_help = DECODE_HELP)]
    Decode {
        /// What the records are
        #[arg(long, value_parser = format_parser(|_| true), hide_possible_values = true)]
        format: &'static Format,
        /// Read bytes, not lines of hex
        #[arg(long)]
        raw: bool,
        /// Print a line for people
        #[arg(long)]
        pretty: bool,
    },
    /// Turn JSON into records
    #[command(after_help = ENCODE_HELP)]
    Encode {
        /// What the records are
        #[arg(long, value_parser = format_parser(|_| true), hide_possible_values = true)]
        format: &'static Format,
    },
    /// Turn page requests, and answers to them, into those of another format
    #[command(after_help = CONVERT_HELP)]
    Convert(Convert),
    /// Start a program with the consumer's end of a channel, and feed it
    #[command(after_help = EXEC_HELP)]
    Exec(Exec),
    /// Read a channel whose consumer's end this process was started with
    #[command(after_help = WATCH_HELP)]
    Watch(Watch),
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// What the records are
    #[arg(long, value_parser = format_parser(|format| format.converts.is_some()))]
    pub(crate) from: &'static Format,
    /// What they are to be
    #[arg(long, value_parser = format_parser(|format| format.converts.is_some()), hide_possible_values = true)]
    pub(crate) to: &'static Format,
    /// Requester id of a device; without any, both have the same numbers
    #[arg(long = "rid", value_name = "DEV=RID", value_parser = rid)]
    rids: Vec<(u32, u32)>,
    /// What to do with requests that a Linux guest refuses; for VT-d and AMD
    #[arg(long, value_enum, default_value_t = Policy::AsIs)]
    policy: Policy,
    /// Requester id, of records that do not say it
    #[arg(long, value_name = "RID", value_parser = number::<u32>)]
    requester: Option<u32>,
    /// PASID, of records that do not say it
    #[arg(long, value_parser = pasid)]
    pasid: Option<u32>,
    /// Group index, or the tag of a stall, of answers that do not say it
    #[arg(long, value_name = "INDEX", value_parser = number::<u16>)]
    prgi: Option<u16>,
    /// Cookie, of records that do not say it
    #[arg(long, value_parser = number::<u32>)]
    cookie: Option<u32>,
    /// Destination segment of riscv.ats_prgr
    #[arg(long, value_parser = number::<u8>)]
    segment: Option<u8>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Policy {
    AsIs,
    Strip,
    Refuse,
}

impl Convert {
    /// What is of no use between answers, if it was given.
    pub(crate) fn check_answers(&self) -> Result<(), String> {
        if self.rids.is_empty() {
            return Ok(());
        }
        Err("--rid is for requests: answers are for the requester that they name, or for --requester"
            .to_owned())
    }

    pub(crate) fn given(&self) -> Given {
        let policy = match self.policy {
            Policy::AsIs => GuestPolicy::AsIs,
            Policy::Strip => GuestPolicy::Strip,
            Policy::Refuse => GuestPolicy::Refuse,
        };
        Given {
            rids: self.rids.clone(),
            policy,
            requester: self.requester,
            pasid: self.pasid,
            index: self.prgi,
            cookie: self.cookie,
            segment: self.segment,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Socket,
    Shared,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// What the channel carries
    #[arg(long, value_parser = format_parser(|format| format.channel.is_some()))]
    pub(crate) format: &'static Format,
    /// How: shared needs a program that uses the library
    #[arg(long, value_enum, default_value_t = Transport::Socket)]
    pub(crate) transport: Transport,
    /// Where the records come from, in lines of hex
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) from: PathBuf,
    /// How long an answer may take
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) respond_timeout: u32,
    /// Page faults are stalls of an SMMUv3, not page requests of PCIe: the records do not say so
    #[arg(long)]
    pub(crate) stall: bool,
    /// How many records the channel holds
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) depth: u32,
    /// The program and its arguments
    #[arg(last = true, required = true, value_names = ["CMD", "ARGS"])]
    pub(crate) command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Respond {
    Success,
    Invalid,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The descriptor's number
    #[arg(long, value_name = "N", env = "RECORDFD_FD", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) fd: RawFd,
    /// What the channel carries
    #[arg(long, value_parser = format_parser(|format| format.channel.is_some()))]
    pub(crate) format: &'static Format,
    /// The end is that of a channel in shared memory
    #[arg(long)]
    pub(crate) shared: bool,
    /// Answer each record; see below with which word
    #[arg(long, value_enum)]
    pub(crate) respond: Option<Respond>,
    /// The port that a report on Error Disconnect Recover names
    #[arg(long, value_name = "RID", default_value = "0", value_parser = number::<u16>)]
    pub(crate) requester: u16,
    /// End after as many records; a group of page faults is not cut
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// How many records the channel holds, as its maker has told; of no effect with --shared
    #[arg(long, env = "RECORDFD_DEPTH", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) depth: u32,
}

/// Takes the names of the formats that `fit`, and lists them for any other.
fn format_parser(fit: fn(&Format) -> bool) -> impl TypedValueParser<Value = &'static Format> {
    let names = formats::all().filter(|format| fit(format)).map(|format| format.name);
    PossibleValuesParser::new(names).map(|name| formats::find(&name).expect("a name of the list"))
}

fn number<T: TryFrom<u64>>(given: &str) -> Result<T, String> {
    let number = text::number(given).ok_or("not a number such as 31 or 0x1f")?;
    number.try_into().map_err(|_| "too large".to_owned())
}

/// A PASID has 20 bits.
fn pasid(given: &str) -> Result<u32, String> {
    let pasid: u32 = number(given)?;
    if pasid >> 20 == 0 { Ok(pasid) } else { Err("more than 20 bits".to_owned()) }
}

fn rid(given: &str) -> Result<(u32, u32), String> {
    let (device, rid) = given.split_once('=').ok_or("not DEV=RID")?;
    Ok((number(device)?, number(rid)?))
}

const FORMATS_HELP: &str = "\
Protocols: event (records may be lost, which is told), must-answer (each is answered exactly once), reply, record
(of the hardware, or a part of a record).

Examples:
  recordfd formats
  recordfd formats --json | jq -r 'select(.protocol == \"must-answer\").name'";

const DECODE_HELP: &str = "\
Reads a record a line, in hex, from stdin, and prints a JSON object a line. Empty lines, and those that begin with #,
are left out. Names are those of the C header or of the hardware's specification; texts are strings, the header and a
mixed record's payload are objects. Bits that no field has are in \"other\", in hex. What a record declares invalid is
shown as 0.

A bad line is told of on stderr with its number, the others are decoded, and the status is 1.

Examples:
  echo 0300000007000000debc0a0055010000030000000000000000705634127f00000000000011000000 |
      recordfd decode --format iommufd.pgfault
  recordfd decode --format smmuv3.event --raw --pretty < evtq.bin
  recordfd formats   (lists the names)";

const ENCODE_HELP: &str = "\
Reads a JSON object a line from stdin and prints a record a line, in hex. Numbers are integers or texts such as
\"0x1f\". Fields that are left out are 0; an unknown one is an error. What the record could not say to its reader is
refused.

Examples:
  echo '{\"flags\":3,\"dev_id\":7,\"pasid\":\"0xabcde\",\"perm\":1,\"addr\":\"0x1000\"}' |
      recordfd encode --format iommufd.pgfault
  recordfd decode --format vtd.page_req_dsc < in.hex | jq -c '.RID = 256' | recordfd encode --format vtd.page_req_dsc";

const CONVERT_HELP: &str = "\
Reads and prints a record a line, in hex. What is given by --requester, --pasid, --prgi or --cookie goes before what an
answer says. On the way each is a page fault (struct iommu_hwpt_pgfault), or an answer
(struct iommu_hwpt_page_response); what that, or the target, has no place for is told of on stderr, by line:
  ADDR LENGTH COOKIE PASID EXEC PRIV LAST GROUP   the field of the fault
  UNKNOWN        flags that are not known
  DETAIL         what an event or a log entry said besides
  PRI_DISABLED   Response Failure; the answer is INVALID now
  RAZ_WI         reads give zero, writes are ignored; the answer is INVALID now

Examples:
  recordfd convert --from iommufd.pgfault --to vtd.page_req_dsc --rid 7=0x100 < faults.hex
  recordfd convert --from iommufd.pgfault --to amd.ppr --policy refuse < faults.hex
  recordfd convert --from smmuv3.cmd_pri_resp --to iommufd.page_response --cookie 17 < commands.hex
  recordfd convert --from iommufd.page_response --to riscv.ats_prgr --requester 0x100 --prgi 3 --pasid 5 < answers.hex";

const EXEC_HELP: &str = "\
CMD inherits the consumer's end; RECORDFD_FD is its number, RECORDFD_FORMAT the format's name, RECORDFD_DEPTH the
depth. Each line of hex is fed as a record; its header is the channel's, and so is the cookie of what must be answered.
Each answer is printed as a JSON object; \"cause\" tells why a must-answer record has it: Answered, or Deadline, HungUp,
BadAnswer, Unfinished (no last page). When everything is fed and answered the channel is closed; for acpi.notify a
report on each cookie but 0 is waited for, as long as --respond-timeout. CMD's stdin is /dev/null if records come
from stdin.

The status is CMD's (128 + N for signal N); 3 if a must-answer record was not answered; else 1 for a bad line.

Examples:
  recordfd exec --format acpi.notify --from events.hex -- recordfd watch --format acpi.notify --respond success
  recordfd exec --format iommufd.pgfault --respond-timeout 500 --from faults.hex -- ./pager
  recordfd exec --format mixed --transport shared -- recordfd watch --format mixed --shared --json < events.hex";

const WATCH_HELP: &str = "\
Prints each record, what was lost in front of it, and the hang-up, at which it ends. Without --respond nothing is
answered. With it:
                          success                                       invalid
  iommufd.pgfault*        SUCCESS                                       INVALID
  pci.error*              what leads on: CAN_RECOVER or, if frozen,     DISCONNECT
                          NEED_RESET to an error; RECOVERED to a later
                          step or a correctable error; DISCONNECT when
                          the device is gone
  device.request          DONE                                          REFUSED
  acpi.notify             status 0 to each cookie but 0; to Error       status 1; 0x81
                          Disconnect Recover 0x80, --requester in the
                          upper half
The formats viommu.* and mixed have no answers.

Examples:
  recordfd exec --format pci.error --from errors.hex -- recordfd watch --format pci.error --respond success
  recordfd watch --fd 5 --format viommu.arm_smmuv3 --shared --json --count 10";
