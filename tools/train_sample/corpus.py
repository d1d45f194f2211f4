#!/usr/bin/env python3
"""Builds the training corpus of the sample model from openly licensed documentation packages of Debian.

    packages --apt-get download, dpkg -x--> trees --extract--> documents --clean, dedupe, split--> text + chat

A document is a list of blocks ("h" heading or "p" paragraph). Only plain prose survives: code, tables, navigation and
fragments are dropped, and a paragraph that was seen before is dropped too. One document in a hundred, chosen by the
hash of its name, is held out; held-out documents pass the dedupe first, so none of their paragraphs is trained on.

Writes into --out:
    train.txt  val.txt     documents, separated by a line that holds one form feed (\\f)
    chat.jsonl             {"turns": [[question, answer], ...], "system": text or null} per line
    documents.jsonl        {"package", "name", "held_out", "blocks"} per line: the same documents, for sources.py
    heldout.txt            <= 100 kB out of the held-out documents whose licence allows redistribution with a notice
    stats.json             characters and documents per package

Example:
    tools/train_sample/corpus.py --cache .cache/train_sample --out .train
"""
import argparse
import collections
import gzip
import hashlib
import html
import json
import os
import random
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import chat
import wordnet

# package, extractor, paths inside the package (globs), licence of the documentation: by the package's copyright file
# and the notices in the documents (weights/sample/README.md has notes on some)
SOURCES = [
    ("wordnet-base", "wordnet", ["usr/share/wordnet"], "WordNet 3.0 licence"),
    ("dict-gcide", "gcide", ["usr/share/dictd/gcide.dict.dz"], "GPL-2+"),
    ("dict-foldoc", "foldoc", ["usr/share/dictd/foldoc.dict.dz"], "GFDL-1.1+ without invariant sections"),
    ("python3.11-doc", "html", ["usr/share/doc/python3.11/html/**/*.html"], "PSF-2"),
    ("postgresql-doc-15", "html", ["usr/share/doc/postgresql-doc-15/html/*.html"], "PostgreSQL"),
    ("sqlite3-doc", "html", ["usr/share/doc/sqlite3/**/*.html"], "public domain"),
    ("git-doc", "html", ["usr/share/doc/git-doc/**/*.html"], "GPL-2"),
    ("perl-doc", "pod", ["usr/share/perl/*/pod/*.pod"], "GPL-1+ or Artistic"),
    ("apache2-doc", "html", ["usr/share/doc/apache2-doc/manual/en/**/*.html"], "Apache-2.0"),
    ("debian-reference-en", "html", ["usr/share/debian-reference/*.en.html"], "GPL-2+"),
    ("debian-faq", "html", ["usr/share/doc/debian/FAQ/*.html"], "copyleft notice of its own"),
    ("developers-reference", "html", ["usr/share/developers-reference/*.html"], "GPL-2+"),
    ("debian-policy", "html", ["usr/share/doc/debian-policy/policy.html/*.html"], "GPL-2+"),
    ("installation-guide-amd64", "html", ["usr/share/doc/installation-guide-amd64/en/*.html"], "GPL-2"),
    ("debmake-doc", "html", ["usr/share/doc/debmake-doc/html/*.en.html"], "Expat"),
    ("debian-kernel-handbook", "html", ["usr/share/doc/debian-kernel-handbook/**/*.html"], "GPL-2+"),
    ("debian-handbook", "html", ["usr/share/doc/debian-handbook/html/en-US/*.html"], "GPL-2+ or CC-BY-SA-3.0"),
    ("maint-guide", "html", ["usr/share/doc/maint-guide/html/*.html"], "GPL-2+"),
    ("aptitude-doc-en", "html", ["usr/share/doc/aptitude/html/en/*.html"], "GPL-2+"),
    ("manpages", "man", ["usr/share/man/man*/*.gz"],
     "Linux-man-pages-copyleft, GPL-1+, GPL-2, GPL-2+, BSD, Expat"),
    ("manpages-dev", "man", ["usr/share/man/man*/*.gz"],
     "Linux-man-pages-copyleft, GPL-1+, GPL-2, GPL-2+, BSD, Expat"),
    ("freebsd-manpages", "man", ["usr/share/man/man[4579]/*.gz"], "BSD-2-Clause-FreeBSD and BSD-4-Clause"),
    ("libreoffice-help-en-us", "html", ["usr/share/libreoffice/help/en-US/text/**/*.html"], "MPL-2.0"),
    ("gnome-user-docs", "xml", ["usr/share/help/C/**/*.page", "usr/share/help/C/**/*.docbook"], "CC-BY-SA-3.0"),
    ("python-django-doc", "html", ["usr/share/doc/python-django-doc/html/**/*.html"], "BSD-3-clause"),
    ("nodejs-doc", "html", ["usr/share/doc/nodejs/api/*.html"], "Expat"),
    ("octave-doc", "html", ["usr/share/doc/octave/octave.html/*.html"], "GPL-3+; manual: copyleft notice of its own"),
    ("kicad-doc-en", "html", ["usr/share/doc/kicad/help/en/**/*.html"], "GPL-3+ or CC-BY-3.0+"),
    ("mercurial-common", "plain", ["usr/lib/python3/dist-packages/mercurial/helptext/*.txt"], "GPL-2+"),
    ("exim4-doc-html", "html", ["usr/share/doc/exim4-doc-html/spec_html/*.html"], "GPL-2+"),
    ("linux-doc-6.1", "html", ["usr/share/doc/linux-doc-6.1/html/**/*.html"], "GPL-2; parts GFDL-1.1+ or GFDL-1.2"),
    ("maxima-doc", "html", ["usr/share/doc/maxima-doc/html/*.html"], "GPL-2"),
    ("rust-doc", "html", ["usr/share/doc/rust-doc/html/book/*.html", "usr/share/doc/rust-doc/html/reference/**/*.html",
                          "usr/share/doc/rust-doc/html/cargo/**/*.html",
                          "usr/share/doc/rust-doc/html/nomicon/**/*.html",
                          "usr/share/doc/rust-doc/html/rustc/**/*.html",
                          "usr/share/doc/rust-doc/html/rust-by-example/**/*.html",
                          "usr/share/doc/rust-doc/html/rustdoc/**/*.html",
                          "usr/share/doc/rust-doc/html/edition-guide/**/*.html",
                          "usr/share/doc/rust-doc/html/error_codes/*.html",
                          "usr/share/doc/rust-doc/html/embedded-book/**/*.html"],
     "MIT or Apache-2.0; embedded-book CC-BY-SA-4.0"),
    ("gimp-help-en", "html", ["usr/share/gimp/2.0/help/en/*.html"],
     "GFDL-1.2+ without invariant sections; parts CC-BY-SA-3.0"),
]
# Left out, because the pages have notices of their own that do not clearly allow it:
EXCLUDED = re.compile(
    r"/man7/ur[iln]\.7"                # parts of IETF standards: "this document itself may not be modified in any way"
    r"|/oradax/oracle-dax\.html")      # has an excerpt of an Oracle specification: "All rights reserved"
# For the same reason whole packages: openjdk-17-doc (its pages: "All rights reserved", "documentation redistribution
# policy") and gnuplot-doc (modified versions only as patches).
# The held-out file is committed, so it comes from these only: each licence allows it with a notice.
HELDOUT_PACKAGES = ("postgresql-doc-15", "sqlite3-doc", "python3.11-doc", "wordnet-base")
HELDOUT_BYTES = 96_000
SKIP_PATH = re.compile(r"/(genindex|search|py-modindex|whatsnew/changelog|license|print|all\.html|_modules|releaselog|"
                       r"index-all|bookindex|copyright|COPYING|LICENSE|gpl|gfdl|legal|translations?)", re.I)
WORDS_OF_PROSE = frozenset("the of and to a in is that it for be are as with on by or an this which not can you if "
                           "from at "
                           "will have when has was one may its but all must should there use used any only".split())
# Old dictionaries and thesauri speak about people in ways that the sample must not repeat.
UNWANTED = re.compile(r"\b(n[i]gg\w*|f[u]ck\w*|sh[i]t\w*|c[u]nt\w*|k[i]kes?|wh[o]res?|sl[u]ts?|r[a]p(e[ds]?|ing|"
                      r"ists?)|inc[e]st\w*|"
                      r"p[o]rn\w*|sex(ual\w*|ually)?|offensive|derogatory|disparag\w*|ethnic slur|slurs?|obscene|"
                      r"vulgar|"
                      r"genital\w*|penis\w*|vagina\w*|vulva\w*|prostitut\w*|suicid\w*|coition|copulat\w*|masturbat\w*|"
                      r"darkies|negro\w*|jews?|jewish|squaw|savages?|homosexual\w*|lesbian\w*)\b", re.I)


# ------------------------------------------------------------------------------------------------------- fetch

def fetch(package, cache):
    """Downloads and unpacks one package; returns its tree."""
    root = cache / ("root_" + package)
    if root.is_dir() and any(root.iterdir()):
        return root
    subprocess.run(["apt-get", "download", package], cwd=cache, check=True, stdout=subprocess.DEVNULL)
    archive = sorted(cache.glob(package + "_*.deb"))[-1]
    subprocess.run(["dpkg", "-x", str(archive), str(root)], check=True)
    return root


def read_text(path):
    data = Path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


# ----------------------------------------------------------------------------------------------------- extract

DROP_ELEMENTS = re.compile(r"<!--.*?-->|<(script|style|pre|table|nav|footer|svg|math|select|textarea|programlisting|"
                           r"screen|"
                           r"informaltable|synopsis|code-block|info|bookinfo|articleinfo|media|credit)\b.*?</\1\s*>",
                           re.S | re.I)
HEADER_LINK = re.compile(r'<a class="(?:headerlink|anchor|header-anchor)".*?</a>|<span class="(?:since|'
                         r'lang)".*?</span>', re.S)
TAG = re.compile(r"<[^>]*>")
BLOCK_TAG = re.compile(r"<(/?)(p|li|dd|dt|h[1-6]|div|ul|ol|dl|td|tr|th|blockquote|section|title|para|listitem|item|"
                       r"body|br|hr|"
                       r"header|main|article|note|simpara|term|steps|list|terms)\b[^>]*>", re.I)
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}


def squash(text):
    return re.sub(r"\s+", " ", html.unescape(TAG.sub("", text))).strip()


def blocks_of_markup(text, heading_tags=HEADINGS):
    """HTML, Mallard or DocBook to blocks: text between two block-level tags is one block."""
    text = HEADER_LINK.sub("", DROP_ELEMENTS.sub(" ", text))
    body = re.search(r"<body\b", text, re.I)
    if body:
        text = text[body.start():]
    blocks, position, opened = [], 0, None
    for tag in BLOCK_TAG.finditer(text):
        content = squash(text[position:tag.start()])
        if content:
            blocks.append(("h" if opened in heading_tags else "p", content))
        position, opened = tag.end(), None if tag[1] else tag[2].lower()
    return blocks


def extract_html(paths):
    for path in paths:
        yield str(path), blocks_of_markup(read_text(path))


def extract_xml(paths):
    for path in paths:
        yield str(path), blocks_of_markup(read_text(path), {"title"})


def extract_man(paths):
    """Manual pages through groff, unwrapped: a line is a paragraph, column 0 is a heading."""
    for first in range(0, len(paths), 40):
        for path in paths[first:first + 40]:
            source = read_text(path)
            if len(source) < 1500 or source.startswith(".so "):
                continue
            run = subprocess.run(["groff", "-mandoc", "-Tutf8", "-P-cbou", "-rLL=9000n", "-rHY=0", "-t"],
                                 input=source.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
            blocks = []
            for line in run.stdout.decode("utf-8", "replace").splitlines()[1:-1]:
                stripped = line.strip()
                if not stripped:
                    continue
                if line[0] != " ":
                    blocks.append(("h", stripped.capitalize()))
                else:
                    blocks.append(("p", re.sub(r" {2,}", " ", stripped.replace("\u2010", "-").replace("\u2212", "-"))))
            yield str(path), blocks


def extract_pod(paths):
    for path in paths:
        blocks = []
        for chunk in re.split(r"\n\s*\n", read_text(path)):
            if chunk[:1] in " \t":
                continue
            for _ in range(3):
                chunk = re.sub(r"[BCIFLSX]<(?:[^<>|]*\|)?([^<>]*)>", r"\1", chunk)
            chunk = re.sub(r"[A-Z]<<+ (.*?) >>+", r"\1", chunk).replace("E<gt>", ">").replace("E<lt>", "<")
            command = re.match(r"=(\w+)\s*(.*)", chunk, re.S)
            if command:
                if command[1].startswith("head"):
                    blocks.append(("h", squash(command[2])))
                continue
            blocks.append(("p", squash(chunk)))
        yield str(path), blocks


def extract_plain(paths):
    for path in paths:
        yield str(path), [("p", " ".join(chunk.split())) for chunk in re.split(r"\n\s*\n", read_text(path))
                          if not chunk.startswith((" ", "\t"))]


def dictionary_entries(path):
    """dictd text: an entry starts in column 0, its body is indented."""
    head, body = None, []
    for line in read_text(path).splitlines():
        if line and not line[0].isspace():
            if head is not None:
                yield head, body
            head, body = line.strip(), []
        elif head is not None:
            body.append(line)
    if head is not None:
        yield head, body


def extract_gcide(paths):
    """Twelve entries make a document; Webster's definitions and WordNet's are told apart, the latter are dropped."""
    document, count = [], 0
    for head, body in dictionary_entries(paths[0]):
        word = re.match(r"([^\\,]+?)\s*\\", head)
        if not word or "WordNet" in " ".join(body):
            continue
        word = word[1].strip()
        # the header may run over; the definition starts at the first numbered line, or after the header's paragraph
        text = " ".join(line.strip() for line in body if not re.match(r"\s{10,}", line))
        text = re.sub(r"\[[^\]]*\]|--\s*[A-Z][\w. ]+\.?|\bSyn:.*|\bNote:.*", " ", text)
        pieces = re.split(r"\s(?=\d+\. )", text)
        pieces = [piece for piece in pieces if re.match(r"\d+\. ", piece)] or pieces[:1]
        definitions = []
        for piece in pieces[:4]:
            piece = re.sub(r"[{}]", "", re.sub(r"^\d+\.\s*(\([^)]*\))?", "", piece))
            piece = re.sub(r"\s+", " ", piece.replace("``", '"').replace("''", '"')).strip(" ;,")
            piece = piece.split(";")[0] if len(piece) > 300 else piece
            if 30 <= len(piece) <= 400 and piece[0].isupper() and not re.search(r"[\\*|^~\[\]\"]", piece):
                definitions.append(piece.rstrip(".") + ".")
        if definitions:
            document.append(("p", f"{word}: " + " ".join(definitions)))
            if len(document) == 12:
                count += 1
                yield f"gcide/{count}", document
                document = []


def extract_foldoc(paths):
    document, count = [], 0
    for head, body in dictionary_entries(paths[0]):
        chunks = re.split(r"\n\s*\n", "\n".join(body).strip("\n"))
        text = []
        for chunk in chunks:
            chunk = re.sub(r"<[\w, /-]+>|\([12]\d\d\d-\d\d-\d\d\)|\{|\}|\(http[^)]*\)", "", chunk)
            chunk = re.sub(r"\s+", " ", chunk).strip()
            if len(chunk) >= 30 and not re.match(r"(\(|\[|See |Home|http)", chunk):
                text.append(chunk)
        if text:
            document += [("h", head)] + [("p", chunk) for chunk in text]
            if len(document) >= 12:
                count += 1
                yield f"foldoc/{count}", document
                document = []


EXTRACTORS = {"html": extract_html, "xml": extract_xml, "man": extract_man, "pod": extract_pod, "plain": extract_plain,
              "gcide": extract_gcide, "foldoc": extract_foldoc}


# ------------------------------------------------------------------------------------------------------- clean

TYPOGRAPHY = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...", "\u00a0": " ",
                            "\u2013": "-", "\u2014": " - ", "\u00ad": "", "\u200b": "", "\u00b6": "", "\u2010": "-",
                            "\u2011": "-", "\ufeff": "", "\u00a7": ""})


def normalise(text):
    text = unicodedata.normalize("NFC", text).translate(TYPOGRAPHY)
    return re.sub(r"\s+([.,;:!?])(?=\s|$)", r"\1", re.sub(r"\s+", " ", text)).strip()


def is_prose(text):
    """Plain English sentences: enough function words, few symbols, ends like a sentence."""
    if not 40 <= len(text) <= 2500 or text[-1] not in ".!?:\")'":
        return False
    if text[-1] == ":" and len(text) < 80:
        return False
    if sum(map(str.isascii, text)) < 0.99 * len(text) or UNWANTED.search(text):
        return False
    letters = sum(c.isalpha() or c == " " for c in text)
    if letters < 0.88 * len(text) or len(re.findall(r"[_={}<>|\\\[\]/@#$%^*~`]", text)) > 0.02 * len(text):
        return False
    words = text.lower().split()
    if len(words) < 7 or max(map(len, words)) > 40:
        return False
    return sum(word in WORDS_OF_PROSE for word in words) >= 0.22 * len(words)


def is_heading(text):
    return 3 <= len(text) <= 80 and sum(c.isalpha() or c == " " for c in text) >= 0.85 * len(text) and text.isascii()


def digest(text):
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def is_held_out(name):
    return digest(name)[0] * 256 + digest(name)[1] < 655


def clean_document(blocks, seen):
    """Prose blocks of one document, each paragraph once over the whole corpus; headings that a paragraph follows."""
    result, heading = [], None
    for kind, text in blocks:
        text = normalise(text)
        if kind == "h":
            heading = re.sub(r"^[\dA-Z]{0,3}(\.\d+)*\.?\s+(?=[A-Z])", "", text)
            heading = heading if is_heading(heading) else None
        elif is_prose(text):
            key = digest(re.sub(r"\W+", "", text.lower()))
            if key in seen:
                continue
            seen.add(key)
            if heading:
                result.append(("h", heading))
                heading = None
            result.append(("p", text))
    return result


def render(blocks):
    return "\n\n".join(text for _, text in blocks)


# -------------------------------------------------------------------------------------------------------- main

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for downloaded and unpacked packages")
    parser.add_argument("--out", type=Path, required=True, help="folder for the corpus")
    parser.add_argument("--packages", help="only these packages, comma separated (default: all)")
    parser.add_argument("--max-mb", type=float, default=9.0,
                        help="most text to take from one package (default %(default)s)")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    wanted = set(arguments.packages.split(",")) if arguments.packages else None

    documents = []                                     # (package, name, blocks, held out)
    net = None
    for package, kind, patterns, _ in SOURCES:
        if wanted and package not in wanted:
            continue
        try:
            root = fetch(package, arguments.cache)
        except (subprocess.CalledProcessError, IndexError):
            print(f"{package}: not available, skipped", file=sys.stderr)
            continue
        if kind == "wordnet":
            net = wordnet.load(root / patterns[0])
            extracted = wordnet.documents(net, is_held_out)
        else:
            paths = sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()})
            paths = [path for path in paths if not SKIP_PATH.search("/" + str(path.relative_to(root)))
                     and not EXCLUDED.search("/" + str(path.relative_to(root)))]
            # a package larger than its share is sampled over all its files, in an order that does not depend on names
            paths.sort(key=lambda path: digest(str(path.relative_to(root))))
            extracted = EXTRACTORS[kind](paths) if paths else []
        n_files = n_chars = 0
        for name, blocks in extracted:
            name = name.replace(str(root), package)
            documents.append((package, name, blocks, is_held_out(name) or name.startswith("heldout/")))
            n_files += 1
            n_chars += sum(len(text) for _, text in blocks if len(text) >= 40)
            if n_chars > arguments.max_mb * 2e6 and kind not in ("wordnet", "gcide"):
                break
        print(f"{package:28} {n_files:6} documents {n_chars / 1e6:8.2f} MB raw", file=sys.stderr, flush=True)

    seen, kept, limit = set(), [], collections.Counter()
    for package, name, blocks, held_out in sorted(documents, key=lambda d: not d[3]):
        if limit[package] > arguments.max_mb * 1e6 and package != "wordnet-base":
            continue
        cleaned = clean_document(blocks, seen) if package != "wordnet-base" else blocks
        if sum(len(text) for kind, text in cleaned if kind == "p") >= 200:
            limit[package] += len(render(cleaned))
            kept.append((package, name, cleaned, held_out))

    order = random.Random(20240501)
    order.shuffle(kept)
    train = [d for d in kept if not d[3]]
    held = [d for d in kept if d[3]]
    (arguments.out / "train.txt").write_text("\n\f\n".join(render(d[2]) for d in train))
    (arguments.out / "val.txt").write_text("\n\f\n".join(render(d[2]) for d in held))
    with open(arguments.out / "documents.jsonl", "w") as file:
        for package, name, blocks, held_out in kept:
            file.write(json.dumps({"package": package, "name": name, "held_out": held_out, "blocks": blocks},
                                  ensure_ascii=False) + "\n")
    text, used = "", collections.Counter()
    for package, _, blocks, _ in held:
        piece = render(blocks) + "\n\n"
        if package in HELDOUT_PACKAGES and used[package] + len(piece.encode()) <= HELDOUT_BYTES // 4:
            text += piece
            used[package] += len(piece.encode())
    (arguments.out / "heldout.txt").write_text(text.rstrip("\n") + "\n")

    conversations = chat.build(train, net, is_held_out, UNWANTED)
    with open(arguments.out / "chat.jsonl", "w") as file:
        for conversation in conversations:
            file.write(json.dumps(conversation, ensure_ascii=False) + "\n")
    stats = {package: {"characters": limit[package], "documents": sum(d[0] == package for d in kept),
                       "licence": licence}
             for package, _, _, licence in SOURCES if limit[package]}
    (arguments.out / "stats.json").write_text(json.dumps(stats, indent=2) + "\n")
    for package, row in stats.items():
        print(f"{package:28} {row['documents']:6} documents {row['characters'] / 1e6:8.2f} MB kept")
    print(f"train {os.path.getsize(arguments.out / 'train.txt') / 1e6:.1f} MB, val "
          f"{os.path.getsize(arguments.out / 'val.txt') / 1e6:.2f} MB, "
          f"held-out file {len(text)} characters {dict(used)}, {len(conversations)} conversations")


if __name__ == "__main__":
    main()
