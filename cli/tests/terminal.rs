//! No byte that controls a terminal comes out of the tool, whatever a device, an argument or a file name contains.

mod common;

use std::process::Command;

use common::{Ran, TOOL, hex_of, recordfd, run};
use recordfd::uapi::{AcpiNotify, Event, FixedText, Sequence};
use serde_json::json;

/// Texts that would move the cursor, hide or reorder what stands around them; each fits a field of 16 bytes.
const HOSTILE: [&str; 14] = [
    "\u{7f}\u{7f}DEL",
    "\u{1b}[2JESC",
    "\rCR",
    "\u{8}BS",
    "\nforged line",
    "\u{9b}2JCSI",
    "\u{85}NEL",
    "\u{90}DCS\u{9c}",
    "\u{202e}RLO\u{202c}",
    "\u{2066}LRI\u{2069}",
    "\u{200f}\u{061c}marks",
    "\u{200b}\u{feff}unseen",
    "\u{2028}\u{00ad}line",
    "\u{e0041}\u{e007f}tags",
];

/// What Unicode calls Cc, Cf, Zl, Zp and default ignorable, as far as [`HOSTILE`] has them; written from the
/// Unicode tables and not from what the tool uses.
fn controls(character: char) -> bool {
    matches!(character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Every line that the tool wrote is free of controls, and stands for a line that it meant to write.
fn assert_harmless(what: &str, ran: &Ran) {
    for text in [&ran.stdout, &ran.stderr] {
        let bad: Vec<char> = text.chars().filter(|c| *c != '\n' && controls(*c)).collect();
        assert!(bad.is_empty(), "{what}: {bad:?} in {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{what}: {text:?}");
    }
}

fn notify(text: &str) -> String {
    let (bus_id, device_class) = (FixedText::new(text).unwrap(), FixedText::new(text).unwrap());
    let record = AcpiNotify { dev_id: 1, value: 0x81, data: 0, cookie: 5, bus_id, device_class };
    hex_of(&Event::new(Sequence::ZERO, record))
}

#[test]
fn hostile_texts_come_out_escaped_from_every_command() {
    for text in HOSTILE {
        let record = notify(text);
        for output in ["", "--pretty"] {
            let ran = recordfd(&format!("decode --format acpi.notify {output}"), &record);
            assert_harmless("decode", &ran);
            assert!(ran.status == 0 && ran.lines().len() == 1, "{ran:?}");
        }
        let raw = common::unhex(&record);
        assert_harmless("decode --raw", &recordfd("decode --format acpi.notify --raw --pretty", raw));

        // JSON says the same text as before, and makes the same record.
        let ran = recordfd("decode --format acpi.notify", &record);
        assert_eq!(ran.json()[0]["bus_id"], json!(text));
        let again = recordfd("encode --format acpi.notify", &ran.stdout);
        assert_eq!(again.quiet_lines(), [record.as_str()]);

        for (transport, shared) in [("socket", ""), ("shared", "--shared")] {
            for output in ["", "--json"] {
                let words = format!(
                    "exec --format acpi.notify --transport {transport} -- \
                     {TOOL} watch --format acpi.notify {shared} {output} --respond success"
                );
                let ran = recordfd(&words, &record);
                assert_harmless("watch", &ran);
                assert!(ran.status == 0 && ran.stdout.contains("bus_id"), "{ran:?}");
            }
        }

        for (what, value) in [
            ("name", json!({ text: 1 })),
            ("name in the header", json!({ "header": { text: 1 } })),
            ("value", json!({ "value": text })),
            ("text for hex", json!({ "other": text })),
            ("no object", json!([text])),
            ("long text", json!({ "bus_id": text.repeat(20) })),
        ] {
            let ran = recordfd("encode --format acpi.notify", value.to_string());
            assert_harmless(what, &ran);
            assert!(ran.status == 1 && ran.stderr.lines().count() == 1, "{what}: {ran:?}");
        }
        let bare = text.trim();
        for (command, line) in [
            ("decode --format acpi.notify", bare),
            ("encode --format acpi.notify", bare),
            ("convert --from iommufd.pgfault --to vtd.page_req_dsc", bare),
            ("exec --format acpi.notify -- true", bare),
        ] {
            assert_harmless(command, &recordfd(command, line));
        }

        let arguments: [&[&str]; 9] = [
            &[text],
            &["decode", "--format", text],
            &["decode", text],
            &["convert", "--from", "amd.ppr", "--to", "iommufd.pgfault", "--rid", text],
            &["exec", "--format", "acpi.notify", "--transport", text, "--", "true"],
            &["exec", "--format", "acpi.notify", "--from", text, "--", "true"],
            &["exec", "--format", "acpi.notify", "--from", "/dev/null", "--", text],
            &["watch", "--format", "acpi.notify", "--fd", text],
            &["watch", "--format", "acpi.notify", "--fd", "0", "--respond", text],
        ];
        for words in arguments {
            let ran = run(Command::new(TOOL).args(words), b"");
            assert!(!ran.stderr.is_empty() && ran.status != 0, "{words:?}: {ran:?}");
            // clap prints an argument over as many lines as it has.
            let ran = Ran { stderr: ran.stderr.replace("\nforged", "\n"), ..ran };
            assert_harmless(words[0], &ran);
        }
    }
}

#[test]
fn printable_text_of_any_script_stays_as_it_is() {
    for text in ["Gerät 1", "装置", "шина", "🔌 \\\""] {
        let ran = recordfd("decode --format acpi.notify", notify(text));
        assert!(ran.stdout.contains(&json!(text).to_string()), "{ran:?}");
    }
}
