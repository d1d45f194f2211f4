#!/usr/bin/env python3
"""Files made to harm: each must be refused with its own reason, or be read, in bounded time, by `tandem extract`.

    python3 tests/python/test_document_bombs.py [--build build/release]

The files are made here: ZIP archives that inflate a thousandfold, nest, lie about their size, are cut or encrypted; XML
with entities that multiply; elements, arrays, quotes and mails nested a hundred thousand deep; one line of 50 MB; PDFs
that are cut or encrypted, or have too many pages. Ends with "N passed, N failed" and exit code 1 if any failed.
"""
import argparse
import hashlib
import io
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 45  # 30 are extract's own
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def docx(document, compress=zipfile.ZIP_DEFLATED, **more):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as z:
        z.writestr("[Content_Types].xml", "<Types/>")
        z.writestr("word/document.xml", document)
        for name, data in more.items():
            z.writestr(name, data)
    return out.getvalue()


def body(inner):
    return f'<?xml version="1.0"?><w:document {W}><w:body>{inner}</w:body></w:document>'


PLAIN = body("<w:p><w:r><w:t>Hello world</w:t></w:r></w:p>")


def many_entries():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("[Content_Types].xml", "<Types/>")
        for i in range(10100):
            z.writestr(f"word/{i}", b"")
        z.writestr("word/document.xml", PLAIN)
    return out.getvalue()


def nested_zip(levels=20):
    data = b"x" * 1000
    for i in range(levels):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr(f"{i}.zip", data)
        data = out.getvalue()
    return data


def lying_size():
    """A directory that says 11 bytes for an entry that inflates to 300 MB."""
    data = bytearray(docx(body(" " * (300 << 20))))
    at = data.rfind(b"PK\1\2")
    data[at + 24:at + 28] = struct.pack("<I", 11)
    return bytes(data)


def encrypted_zip():
    data = bytearray(docx(PLAIN))
    at = -1
    while (at := data.find(b"PK\1\2", at + 1)) >= 0:
        data[at + 8] |= 1
    return bytes(data)


LAUGHS = '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">' + "".join(
    f'<!ENTITY lol{i} "{f"&lol{i - 1 if i > 1 else str()};" * 10}">' for i in range(1, 10)) + f']><w:document {W}><w:body><w:p><w:r><w:t>&lol9;</w:t></w:r></w:p></w:body></w:document>'


def pdf(pages=1, trailer="", text="Hello world"):
    objects = ["<< /Type /Catalog /Pages 2 0 R >>",
               f"<< /Type /Pages /Count {pages} /Kids [{' '.join(f'{5 + i} 0 R' for i in range(pages))}] >>",
               "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
               f"<< /Length {len(text) + 36} >>\nstream\nBT /F1 12 Tf 72 720 Td ({text}) Tj ET\nendstream"]
    objects += ["<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 3 0 R >> >> >>"] * pages
    out, offsets = b"%PDF-1.4\n", []
    for i, o in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{i} 0 obj\n{o}\nendobj\n".encode()
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode() + b"".join(f"{o:010} 00000 n \n".encode() for o in offsets)
    return out + f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()


def encrypted_pdf():
    """Encryption of 40 bits with a user password that nobody knows: O and U are noise, so no password opens it."""
    noise = hashlib.sha256(b"o").digest().hex(), hashlib.sha256(b"u").digest().hex()
    return pdf(trailer=f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{noise[0]}> /U <{noise[1]}> /P -4 >> /ID [<00> <00>]")


def nested_mail(levels):
    inner = "Content-Type: text/plain\n\nHello\n"
    for i in range(levels):
        inner = f'Content-Type: multipart/mixed; boundary="b{i}"\n\n--b{i}\n{inner}\n--b{i}--\n'
    return ("From: a@example.com\nTo: b@example.com\nSubject: deep\nMIME-Version: 1.0\n" + inner).encode()


def many_parts():
    return ("From: a@example.com\nTo: b@example.com\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n" +
            "--b\n\nx\n" * 20000 + "--b--\n").encode()


# name, bytes, the words that the reason must hold (None: it is read)
def cases():
    deep = 100000
    big = "lorem ipsum " * 1000
    return [
        ("ratio.docx", lambda: docx(body("<!--" + "a" * (60 << 20) + "-->")), "inflates to more than 200 times"),
        ("lying.docx", lying_size, "inflates to more than"),
        ("stored.docx", lambda: docx(body("<w:p><w:r><w:t>" + "a" * (20 << 20) + "</w:t></w:r></w:p>"), zipfile.ZIP_STORED), "more than 10 MB of text"),
        ("entries.docx", many_entries, "entries, more than 10000"),
        ("nested.zip", nested_zip, "it is a ZIP archive"),
        ("truncated.docx", lambda: docx(PLAIN, word_styles="x" * 5000)[:-200], "truncated"),
        ("cut-in-half.docx", lambda: docx(PLAIN)[:150], "truncated"),
        ("encrypted.docx", encrypted_zip, "is encrypted"),
        ("ole.docx", lambda: b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1" + bytes(4096), "an encrypted or old Microsoft Office file"),
        ("laughs.docx", lambda: docx(LAUGHS), "DOCTYPE"),
        ("deep.docx", lambda: docx(body("<w:ins>" * deep + "</w:ins>" * deep)), "nest too deep"),
        ("broken.docx", lambda: docx(body("<w:p><w:r>")), "mismatched tag"),
        ("not-xml.docx", lambda: docx("hello"), "syntax error"),
        ("no-text.docx", lambda: docx(body("")), "there is no text in it"),
        ("book.xlsx", lambda: docx(PLAIN, **{"xl/workbook.xml": "x"}), "an Excel workbook"),
        ("deep.html", lambda: b"<html><body>" + b"<div>" * deep + b"x", "more than 1000 elements within each other"),
        ("deep-unclosed.html", lambda: b"<html><body>" + b"<b><i><font>" * deep, "more than 1000 elements within each other"),
        ("paragraphs.html", lambda: b"<html><body>" + b"<p>word" * deep, None),
        ("spans.html", lambda: b"<html><table>" + b"<tr><td rowspan=65000 colspan=65000>x</td></tr>" * 2000 + b"</table>", None),
        ("attributes.html", lambda: b"<html><p " + b" ".join(b"a%d=1" % i for i in range(200000)) + b">x</p>", "more than 1000 attributes in one tag"),
        ("formatting.html", lambda: b"<html><body>" + b"".join(b"<p><b id=%d>x" % i for i in range(900)), None),
        ("line.csv", lambda: b"a,b\n" + b"x," * (25 << 20), "more than 4096 columns"),
        ("field.csv", lambda: b"a,b\n" + b"x" * (50 << 20), "more than 10 MB of text"),
        ("rows.csv", lambda: b"a,b\n" + b"x,y\n" * 1000000, "cells of tables"),
        ("quote.csv", lambda: b'a,b\n"' + b"x\n" * 3000000, None),
        ("deep.json", lambda: b"[" * deep + b"]" * deep, "nest"),
        ("deep-object.json", lambda: b'{"a":' * deep + b"1" + b"}" * deep, "nest"),
        ("names.json", lambda: b'{"a":' * 900 + b'[' + b"1," * 200000 + b"1]" + b"}" * 900, "MB of text"),
        ("quotes.md", lambda: b"# a\n\n# b\n\n" + b">" * deep + b" deep", None),
        ("lists.md", lambda: b"# a\n\n# b\n\n" + b"".join(b" " * (2 * i) + b"- item\n" for i in range(2000)), None),
        ("links.md", lambda: b"# a\n\n# b\n\n" + b"[" * 50000 + b"a](b)", None),
        ("emphasis.md", lambda: b"# a\n\n# b\n\n" + b"**a *b " * 20000, None),
        ("deep.eml", lambda: nested_mail(100), "nest more than 10 deep"),
        ("shallow.eml", lambda: nested_mail(5), None),
        ("parts.eml", many_parts, "more than 10000 parts"),
        ("big.txt", lambda: (big * 1000).encode(), "more than 10 MB of text"),
        ("zeros.txt", lambda: bytes(100000), "it is binary"),
        ("marks.txt", lambda: ("a" + "\u0301\u0327" * 1000000).encode(), None),
        ("empty.txt", lambda: b"", "it is empty"),
        ("spaces.txt", lambda: b" \n" * 1000, "there is no text in it"),
        ("photo.pdf", lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "an image (PNG)"),
        ("plain.pdf", pdf, None),
        ("truncated.pdf", lambda: pdf()[:180], "it is broken; pdftotext says"),
        ("encrypted.pdf", encrypted_pdf, "it is encrypted"),
        ("pages.pdf", lambda: pdf(pages=2500), "more than 2000 pages"),
        ("noise.pdf", lambda: b"%PDF-1.7\n" + bytes(range(256)) * 400, "it is broken; pdftotext says"),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release")
    args = parser.parse_args()
    tandem, passed, failed = ROOT / args.build / "tandem", 0, 0
    slack = 4 if "asan" in args.build else 1
    print(f"{'file':20} {'MB':>7} {'s':>5}  what came of it")
    with tempfile.TemporaryDirectory() as folder:
        for name, make, reason in cases():
            path = pathlib.Path(folder) / name
            path.write_bytes(make())
            start = time.monotonic()
            try:
                run = subprocess.run([tandem, "extract", "--json", "--chunks", path], capture_output=True, timeout=SECONDS * slack)
            except subprocess.TimeoutExpired:
                print(f"FAILED: {name}: not done after {SECONDS * slack} s")
                failed += 1
                continue
            seconds = time.monotonic() - start
            said = run.stderr.decode("utf-8", "replace")
            o = json.loads(run.stdout) if run.stdout else {}
            if reason is None:
                ok = run.returncode == 0 and o.get("chunks")
            else:
                ok = run.returncode == 1 and reason in o.get("error", "")
            ok = ok and "Sanitizer" not in said and "broke off" not in o.get("error", "")
            what = o.get("error") or f"{len(o.get('text', ''))} characters, {len(o.get('chunks', []))} chunks"
            print(f"{name:20} {path.stat().st_size / 1e6:7.2f} {seconds:5.1f}  {what[:150]}")
            if not ok:
                print(f"FAILED: {name}: expected {reason or 'text'}, exit code {run.returncode}: {said[-400:]}")
            passed, failed = passed + bool(ok), failed + (not ok)
            path.unlink()
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
