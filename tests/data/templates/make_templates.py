#!/usr/bin/env python3
"""Template/value pairs and what Jinja2 makes of them, as JSON lines {template, vars, output | error}.

Jinja2 is set up as transformers does for chat templates (trim_blocks, lstrip_blocks, loop controls, generation
blocks, tojson without HTML escaping, raise_exception, strftime_now), but in the sandbox that lets a template change
lists it made itself, which published templates do. strftime_now shows 2025-07-26 12:00:00.

    python3 make_templates.py --committed > pairs.jsonl          the hand-written cases and a sample of generated ones
    python3 make_templates.py --count 5000 --seed 7 > FILE       generated pairs only

"error" is "Type: words" where the words are the template's or Jinja's own; "" where only the failure counts (Python's
TypeError and the like, whose words belong to Python).
"""
import argparse
import datetime
import json
import random
import re
import sys
import warnings

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import SandboxedEnvironment

warnings.simplefilter("ignore")


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def make_environment():
    env = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime(2025, 7, 26, 12, 0).strftime(form)
    return env


ENV = make_environment()
WORDS_OF_JINJA = ("UndefinedError", "TemplateError")


def render(template, values):
    """A pair, or None where the result is not comparable (addresses, integers beyond 64 bits, lone surrogates)."""
    pair = {"template": template, "vars": values}
    try:
        pair["output"] = ENV.from_string(template).render(**json.loads(json.dumps(values)))
        text = pair["output"]
    except RecursionError:
        return None
    except MemoryError:
        return None
    except Exception as e:  # noqa: BLE001 - whatever the template makes Python raise
        kind = type(e).__name__
        if kind == "OverflowError":
            return None
        pair["error"] = f"{kind}: {e}" if kind in WORDS_OF_JINJA else ""
        text = str(e)
    if re.search(r"(?i) at 0x| bt 0x|built-in method| object>|\d{19}", text) or len(text) > 4000:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return pair


# Generated pairs.

STRINGS = ["", "a", "hello", "Hello World", " padded  text ", "x,y,,z", "it's", 'say "hi"', "back\\slash", "line\nbreak\n",
           "tab\there", "<b>&amp;</b>", "żółć", "日本語テキスト", "🙂 emoji 🙂", "Straße", "ǅ title", "ΑΣ ΟΔΟΣ", "42", "-7", "3.5",
           "1e3", " 12 ", "0x1f", "true", "none", "{0} and {1}", "%s|%5d", "a-b (c) [d]", "\u00a0nbsp\u2003", "\x7f\x01",
           "MiXeD cAsE", "aaaa", "abcabc", "\r\nwin\r\n", "e\u0301", "ﬁne", "١٢٣"]
TOJSON_ARGS = ["indent=2", "indent=1", "ensure_ascii=true", "sort_keys=true", "separators=(',', ':')", "indent=4, sort_keys=true", "true"]
NAMES = ["name", "id", "items", "x", "role", "content"]
FIELDS = ["name", "id", "x", "role", "content"]  # without "items", which as an attribute is a method


def literal_string(r, s=None):
    s = r.choice(STRINGS) if s is None else s
    quote = r.choice("'\"")
    out = s.replace("\\", "\\\\").replace(quote, "\\" + quote).replace("\n", "\\n").replace("\r", "\\r")
    out = out.replace("\t", "\\t").replace("\x01", "\\x01")
    return quote + out + quote


def number(r):
    return r.choice([0, 1, 2, 3, -1, -2, 5, 7, 10, 42, 100, 255, -100, 1000003, 0.0, 0.5, 1.5, -2.5, 2.5, 3.14159, 1e10, 1e16,
                     1e-5, 123456.789, 0.1, 2.675, 1e22, -0.75, 1 / 3])


def value(r, depth=0):
    k = r.random()
    if depth > 2 or k < 0.3:
        return r.choice(STRINGS)
    if k < 0.5:
        return number(r)
    if k < 0.58:
        return r.choice([None, True, False])
    if k < 0.8:
        return [value(r, depth + 1) for _ in range(r.randrange(5))]
    return {r.choice(NAMES + ["a b", "żó", "1"]): value(r, depth + 1) for _ in range(r.randrange(4))}


def variables(r):
    people = [{"name": r.choice(["Ann", "bob", "Cy", "ann", "Dé"]), "id": r.randrange(6), "x": r.choice([None, True, 1.5, "q", [1]])}
              for _ in range(r.randrange(5))]
    return {"s": r.choice(STRINGS), "t": r.choice(STRINGS), "n": r.choice([0, 1, 2, 3, -1, 5, 10, -4]), "f": float(number(r)),
            "l": [value(r, 1) for _ in range(r.randrange(6))], "nums": [number(r) for _ in range(r.randrange(6))],
            "words": [r.choice(STRINGS) for _ in range(r.randrange(5))], "d": {r.choice(NAMES): value(r, 1) for _ in range(4)},
            "people": people, "none_": None, "yes": True, "v": value(r)}


class Maker:
    def __init__(self, r):
        self.r = r

    def pick(self, *makers):
        return self.r.choice(makers)

    # Each method returns the text of an expression that mostly has the type of its name.

    def string(self, d):
        r, e = self.r, self
        if d <= 0:
            return r.choice([literal_string(r), "s", "t", literal_string(r)])
        return r.choice([
            lambda: f"{e.string(d-1)} ~ {e.any(d-1)}",
            lambda: f"({e.string(d-1)} + {e.string(d-1)})",
            lambda: f"{e.string(0)} * {r.randrange(-1, 4)}",
            lambda: f"{e.string(0)}[{e.slice()}]",
            lambda: f"{e.string(0)}[{r.randrange(-3, 4)}]",
            lambda: f"{e.atom(d-1)}|{r.choice(['upper', 'lower', 'title', 'capitalize', 'trim', 'string', 'escape', 'e', 'reverse', 'safe', 'tojson', 'urlencode', 'forceescape'])}",
            lambda: f"{e.string(0)}.{r.choice(['upper', 'lower', 'title', 'capitalize', 'strip', 'lstrip', 'rstrip', 'swapcase', 'casefold'])}()",
            lambda: f"{e.string(0)}.{r.choice(['strip', 'lstrip', 'rstrip'])}({literal_string(r, r.choice(['a', ' ', 'xyz', 'ah', '🙂', '<>b']))})",
            lambda: f"{e.string(0)}.replace({literal_string(r)}, {e.string(0)}{r.choice(['', ', 1', ', -1', ', 0'])})",
            lambda: f"{e.string(0)}|replace({literal_string(r)}, {e.string(0)}{r.choice(['', ', 1', ', count=2'])})",
            lambda: f"{e.list(d-1)}|join({r.choice(['', literal_string(r), literal_string(r, ', '), 'd=' + literal_string(r)])})",
            lambda: f"people|join(', ', attribute={literal_string(r, r.choice(NAMES))})",
            lambda: f"{literal_string(r)}.join({r.choice(['words', e.list(d-1), e.string(0)])})",
            lambda: f"{e.any(d-1)}|tojson({r.choice(TOJSON_ARGS)})",
            lambda: f"{e.format_call()}",
            lambda: f"{e.percent()}",
            lambda: f"{e.string(0)}|indent({r.choice(['', '2', '2, true', 'first=true', 'blank=true', literal_string(r, '> ')])})",
            lambda: f"{e.string(0)}|truncate({r.choice(['5', '7, true', '4, false, ' + literal_string(r, '.'), '8, leeway=0', '3'])})",
            lambda: f"{e.string(0)}|center({r.randrange(0, 14)})",
            lambda: f"{e.string(0)}.{r.choice(['center', 'ljust', 'rjust'])}({r.randrange(0, 12)}{r.choice(['', ', ' + literal_string(r, '*')])})",
            lambda: f"{e.string(0)}.zfill({r.randrange(0, 9)})",
            lambda: f"{e.string(0)}.{r.choice(['removeprefix', 'removesuffix'])}({literal_string(r, r.choice(['a', 'h', 'lo', '', '語']))})",
            lambda: f"({e.string(d-1)} if {e.bool(d-1)} else {e.string(d-1)})",
            lambda: f"{e.any(d-1)}|default({e.string(0)}{r.choice(['', ', true', ', boolean=true'])})",
            lambda: f"{e.number(d-1)}|filesizeformat{r.choice(['', '(true)'])}",
            lambda: "strftime_now(" + literal_string(r, r.choice(["%Y-%m-%d", "%d %b %Y", "%H:%M:%S %p %j", "%A %B %e %y %%", "%-d/%-m %I"])) + ")",
        ])()

    def format_call(self):
        r, e = self.r, self
        form = r.choice(["{}", "{} {}", "{0}{1}{0}", "{:>8}|{:<6}|", "{:^9}{:*^7}", "{0!r:>12} {1!s}", "{:05}|{:+}", "{:,}|{:_}", "{:.2f} {:.3e}",
                         "{:x}{:#b}", "{:g} {}", "{:%} {:.1%}", "{{}} {}", "{:n} {:d}", "{0:{1}}", "{!a} {}", "{:.3} {:10.4}", "{:08.3f} {:-}"])
        return f"{literal_string(r, form)}.format({e.atom(1)}, {e.atom(1)})"

    def percent(self):
        r, e = self.r, self
        form, n = r.choice([("%s", 1), ("%s %s", 2), ("%d|%5d", 2), ("%05.1f", 1), ("%-6s|%6s|", 2), ("%r %a", 2), ("%x %X", 2), ("%+d % d", 2),
                            ("%e %g", 2), ("%.3s|", 1), ("%%%s", 1), ("%c", 1), ("%#o", 1), ("%.2f", 1), ("%3d%%", 1)])
        args = [e.pick(e.number, e.atom)(1) for _ in range(n)]
        return r.choice([f"({literal_string(r, form)} % ({', '.join(args)},))", f"{literal_string(r, form)}|format({', '.join(args)})"])

    def slice(self):
        r = self.r

        def part():
            return r.choice(["", "", str(r.randrange(-5, 6))])
        return r.choice([f"{part()}:{part()}", f"{part()}:{part()}:{r.choice(['1', '2', '-1', '-2', '3', ''])}"])

    def number(self, d):
        r, e = self.r, self
        if d <= 0:
            x = number(r)
            return r.choice([repr(x) if x >= 0 and "e" not in repr(x) else "n", "n", "f", str(r.randrange(9))])
        return r.choice([
            lambda: f"({e.number(d-1)} {r.choice(['+', '-', '*', '/', '//', '%'])} {e.number(d-1)})",
            lambda: f"{e.number(d-1)} {r.choice(['+', '-', '*', '/', '//', '%'])} {e.number(d-1)}",
            lambda: f"{r.choice(['2', '3', 'n', '1.5', '-2'])} ** {r.choice(['0', '2', '3', '-1'])}",
            lambda: f"-{e.number(d-1)}",
            lambda: f"+{e.number(0)}",
            lambda: f"{e.any(d-1)}|{r.choice(['length', 'count'])}",
            lambda: f"{e.any(d-1)}|int{r.choice(['', '(5)', '(default=-1)', '(0, 16)', '(base=0)'])}",
            lambda: f"{e.any(d-1)}|float{r.choice(['', '(1.5)'])}",
            lambda: f"{e.number(d-1)}|abs",
            lambda: f"{e.number(d-1)}|round{r.choice(['', '(1)', '(2)', '(-1)', '(1, ' + literal_string(r, 'floor') + ')', '(method=' + literal_string(r, 'ceil') + ')'])}",
            lambda: f"{r.choice(['nums', e.list(d-1)])}|sum{r.choice(['', '(start=2)'])}",
            lambda: "people|sum(attribute='id')",
            lambda: f"nums|{r.choice(['min', 'max', 'first', 'last'])}",
            lambda: f"{e.string(0)}.{r.choice(['find', 'rfind', 'count', 'index'])}({literal_string(r, r.choice(['a', 'l', '', 'lo', '語', 'zz']))}{r.choice(['', ', 1', ', 1, -1'])})",
            lambda: f"{e.string(0)}|wordcount",
            lambda: f"{e.list(0)}.{r.choice(['count', 'index'])}({e.atom(0)})",
            lambda: f"({e.number(d-1)} if {e.bool(d-1)} else {e.number(d-1)})",
        ])()

    def bool(self, d):
        r, e = self.r, self
        if d <= 0:
            return r.choice(["true", "false", "yes", "none_", "n", "s", "l", "missing"])
        cmp = ["==", "!=", "<", "<=", ">", ">="]
        tests = ["defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "integer", "float", "boolean", "true", "false",
                 "callable", "upper", "lower", "escaped"]
        return r.choice([
            lambda: f"{e.number(d-1)} {r.choice(cmp)} {e.number(d-1)}",
            lambda: f"{e.string(0)} {r.choice(cmp)} {e.string(0)}",
            lambda: f"{e.any(d-1)} {r.choice(['==', '!='])} {e.any(d-1)}",
            lambda: f"{e.number(0)} {r.choice(cmp)} {e.number(0)} {r.choice(cmp)} {e.number(0)}",
            lambda: f"{e.atom(0)} {r.choice(['in', 'not in'])} {e.pick(e.list, e.string, e.mapping)(d-1)}",
            lambda: f"{e.bool(d-1)} {r.choice(['and', 'or'])} {e.bool(d-1)}",
            lambda: f"not {e.bool(d-1)}",
            lambda: f"{e.atom(d-1)} is {r.choice(['', 'not '])}{r.choice(tests)}",
            lambda: f"{e.number(0)} is {r.choice(['odd', 'even', 'divisibleby 3', 'divisibleby(2)', 'in [1, 2, 3]'])}",
            lambda: f"{e.atom(0)} is {r.choice(['eq', 'ne', 'equalto'])}({e.atom(0)})",
            lambda: f"{e.number(0)} is {r.choice(['lt', 'le', 'gt', 'ge', 'lessthan', 'greaterthan'])} {e.number(0)}",
            lambda: f"{e.string(0)}.{r.choice(['startswith', 'endswith'])}({r.choice([literal_string(r, r.choice(['h', 'a', '', 'o', '🙂'])), chr(40) + literal_string(r) + ', ' + literal_string(r, 'a') + chr(41)])})",
            lambda: f"{e.string(0)}.{r.choice(['isdigit', 'isalpha', 'isalnum', 'isspace', 'isupper', 'islower', 'istitle', 'isnumeric', 'isdecimal', 'isascii', 'isidentifier', 'isprintable'])}()",
            lambda: f"({e.list(0)} {r.choice(cmp)} {e.list(0)})",
        ])()

    def list(self, d):
        r, e = self.r, self
        if d <= 0:
            return r.choice(["l", "nums", "words", "people", "[]", "[1, 2, 3]", "(1, 'b')", f"[{e.atom(0)}, {e.atom(0)}]", "range(4)", "range(5, 0, -2)"])
        tests = ["'odd'", "'string'", "'defined'", "'none'", "'gt', 2", "'eq', n", "'number'", "'in', [1, 2]", ""]
        return r.choice([
            lambda: f"{e.list(0)}[{e.slice()}]",
            lambda: f"{e.list(d-1)} + {e.list(d-1)}",
            lambda: f"{e.list(0)} * {r.randrange(0, 3)}",
            lambda: f"{e.any(d-1)}|list",
            lambda: f"{e.list(d-1)}|{r.choice(['sort', 'unique|list', 'reverse|list', 'sort(reverse=true)', 'sort(case_sensitive=true)'])}",
            lambda: f"words|{r.choice(['sort', 'unique|list', 'map(' + repr('upper') + ')|list', 'map(' + repr('length') + ')|list', 'sort(true)', 'map(' + repr('replace') + ', ' + repr('a') + ', ' + repr('b') + ')|list'])}",
            lambda: f"{e.list(d-1)}|{r.choice(['select', 'reject'])}({r.choice(tests)})|list",
            lambda: f"people|{r.choice(['selectattr', 'rejectattr'])}({e.attr_test()})|list",
            lambda: f"people|map(attribute={literal_string(r, r.choice(['name', 'id', 'x', 'zz', 'x.0']))}{r.choice(['', ', default=0'])})|list",
            lambda: f"people|sort(attribute={literal_string(r, r.choice(['name', 'id', 'name,id', 'id,name']))}{r.choice(['', ', reverse=true'])})|map(attribute='id')|list",
            lambda: f"people|groupby({literal_string(r, r.choice(['name', 'id']))})",
            lambda: f"{e.list(d-1)}|batch({r.randrange(1, 4)}{r.choice(['', ', 0', ', fill_with=' + literal_string(r)])})|list",
            lambda: f"{e.list(d-1)}|slice({r.randrange(1, 4)}{r.choice(['', ', 0'])})|list",
            lambda: f"{e.mapping(d-1)}|{r.choice(['items|list', 'dictsort', 'list', 'dictsort(true)', 'dictsort(by=' + repr('value') + ')', 'dictsort(reverse=true)'])}",
            lambda: f"{e.mapping(d-1)}.{r.choice(['keys()', 'values()', 'items()'])}{r.choice(['', '|list'])}",
            lambda: f"{e.string(0)}.{r.choice(['split', 'rsplit'])}({r.choice(['', literal_string(r, ','), literal_string(r, 'a'), 'none, 1', literal_string(r, ' ') + ', 1', 'maxsplit=1', 'sep=' + literal_string(r, 'l')])})",
            lambda: f"{e.string(0)}.splitlines({r.choice(['', 'true'])})",
            lambda: f"{e.string(0)}.{r.choice(['partition', 'rpartition'])}({literal_string(r, r.choice(['a', ' ', 'l', '本']))})",
            lambda: f"({e.list(d-1)} if {e.bool(d-1)} else {e.list(d-1)})",
            lambda: f"range({r.randrange(0, 6)}, {r.randrange(0, 9)}, {r.choice([1, 2, -1, 3])})|list",
        ])()

    def attr_test(self):
        r = self.r
        name = literal_string(r, r.choice(["x", "id", "name", "zz"]))
        return name + r.choice(["", ", 'defined'", ", 'none'", ", 'equalto', 1", ", 'string'", ", 'in', [1, 2, 'Ann']"])

    def mapping(self, d):
        r, e = self.r, self
        if d <= 0:
            return r.choice(["d", "{}", "{'a': 1, 'b': 'x'}", f"{{{literal_string(r)}: {e.atom(0)}, 'k': {e.atom(0)}}}", "dict(a=1, b=s)"])
        return r.choice([
            lambda: f"dict({e.mapping(0)}, z={e.any(d-1)})",
            lambda: f"{{'k': {e.any(d-1)}, {e.atom(0)}: {e.any(d-1)}}}",
            lambda: f"dict([('a', {e.any(d-1)})])",
            lambda: f"{e.mapping(0)}.copy()",
        ])()

    def atom(self, d):
        r, e = self.r, self
        return r.choice([
            lambda: e.string(0), lambda: e.number(0), lambda: e.list(0), lambda: e.mapping(0),
            lambda: r.choice(["true", "false", "none", "v", "missing", "none_", "d.missing", "v.name", "l[0]", "people[0].name"]),
            lambda: f"d.{r.choice(FIELDS)}", lambda: f"d[{literal_string(r, r.choice(FIELDS))}]", lambda: f"d.get({literal_string(r, r.choice(NAMES))}{r.choice(['', ', 7'])})",
            lambda: f"people[{r.randrange(-2, 3)}].{r.choice(FIELDS)}", lambda: f"l[{r.randrange(-3, 4)}]",
        ])()

    def any(self, d):
        return self.pick(self.string, self.number, self.bool, self.list, self.mapping, self.atom)(d)

    # Statements.

    def tag(self, body):
        r = self.r
        left = r.choice(["", "", "", "-", "+"])
        right = r.choice(["", "", "", "-", "+"])
        return "{%" + left + " " + body + " " + right + "%}"

    def out(self, expression):
        r = self.r
        return "{{" + r.choice(["", "", "-"]) + " " + expression + " " + r.choice(["", "", "-"]) + "}}"

    def text(self):
        return self.r.choice(["", " ", "\n", "\n  ", "text ", "  x\n", "\n\n", "{ not }", "a\tb", "# %", "\u00a0\n"])

    def block(self, d):
        return "".join(self.text() + self.statement(d) for _ in range(self.r.randrange(1, 4))) + self.text()

    def loop_out(self):
        r = self.r
        return self.out(r.choice(["loop.index", "loop.index0", "loop.first", "loop.last", "loop.length", "loop.revindex", "loop.revindex0", "loop.previtem",
                                  "loop.nextitem", "loop.cycle('a', 'b', 'c')", "loop.changed(i)", "loop.depth", "loop.depth0", "i", "i", "x is defined"]))

    def statement(self, d):
        r, e = self.r, self
        if d <= 0:
            return r.choice([lambda: e.out(e.any(1)), lambda: "{#" + r.choice(["", "-"]) + " comment " + r.choice(["", "-", "+"]) + "#}",
                             lambda: e.tag(f"set x = {e.any(1)}"), lambda: e.out("x"), lambda: e.out(e.any(2))])()
        return r.choice([
            lambda: e.tag(f"if {e.bool(2)}") + e.block(d-1) + (e.tag(f"elif {e.bool(1)}") + e.block(d-1) if r.random() < 0.4 else "") + (e.tag("else") + e.block(d-1) if r.random() < 0.5 else "") + e.tag("endif"),
            lambda: e.tag(f"for i in {e.list(1)}{r.choice(['', '', ' if i', ' if i is string', ' if not loop'])}") + e.loop_out() + e.block(d-1) + e.loop_out() + (e.tag("else") + e.block(d-1) if r.random() < 0.4 else "") + e.tag("endfor"),
            lambda: e.tag(f"for k, i in {e.mapping(1)}{r.choice(['.items()', '|items', '|dictsort'])}") + e.out("k") + e.loop_out() + e.block(d-1) + e.tag("endfor"),
            lambda: e.tag("for i in range(6)") + e.tag(f"if i == {r.randrange(5)}") + e.tag(r.choice(["break", "continue"])) + e.tag("endif") + e.loop_out() + (e.tag("else") + "E" if r.random() < 0.3 else "") + e.tag("endfor"),
            lambda: e.tag("for i in [[1, [2, [3]]], [4]] recursive") + e.out("loop.depth") + e.out("loop(i) if i is not number else i") + e.tag("endfor"),
            lambda: e.tag(f"set ns = namespace(c={e.number(0)}, found=false)") + e.tag("for i in [1, 2, 3]") + e.tag("set ns.c = ns.c + i") + e.tag("set x = i") + e.tag("endfor") + e.out("ns.c") + e.out("x"),
            lambda: e.tag("set x") + e.block(d-1) + e.tag("endset") + e.out("x|length"),
            lambda: e.tag("set x | upper | trim") + e.block(d-1) + e.tag("endset") + e.out("x"),
            lambda: e.tag(f"filter {r.choice(['upper', 'trim', 'replace(' + repr('a') + ', ' + repr('b') + ')', 'indent(2)'])}") + e.block(d-1) + e.tag("endfilter"),
            lambda: e.tag(f"macro m(a, b={e.any(1)}, c=a)") + e.out("a") + "," + e.out("b") + "," + e.out("c") + r.choice(["", e.out("varargs"), e.out("kwargs"), e.out("caller() if caller is defined and caller else '-'")]) + e.tag("endmacro") + e.out(r.choice(["m(1)", "m(1, 2, 3)", "m(b=n, a=s)", "m()", "m(1, 2, 3, 4)", "m(1, q=2)", "m(*[1, 2])", "m(**{'a': 3})"])) + (e.tag("call m(7)") + e.block(d-1) + e.tag("endcall") if r.random() < 0.4 else ""),
            lambda: e.tag("macro w(k)") + "<" + e.out("caller(k, 2)") + ">" + e.tag("endmacro") + e.tag("call(p, q=5) w(n)") + e.out("p ~ q") + e.block(d-1) + e.tag("endcall"),
            lambda: e.tag(f"with x = {e.any(1)}, y = n") + e.out("x") + e.out("y") + e.block(d-1) + e.tag("endwith"),
            lambda: e.tag(f"set a, b = {r.choice(['1, 2', '(s, t)', 'l', '[1, [2]]'])}") + e.out("a") + e.out("b"),
            lambda: e.tag("generation") + e.block(d-1) + e.tag("endgeneration"),
            lambda: "{% raw " + r.choice(["", "-"]) + "%} {{ raw }} {% if %}\n {%" + r.choice(["", "-"]) + " endraw " + r.choice(["", "-"]) + "%}",
            lambda: e.tag("set x = []") + e.tag("for i in nums") + e.tag("set _ = x.append(i)") + e.tag("endfor") + e.out("x") + e.out("x.pop() if x"),
            lambda: e.tag("set x = {}") + e.tag(f"set _ = x.update({{'q': {e.any(1)}}})") + e.out("x") + e.out("x.pop('q')") + e.out("x.setdefault('z', 3)"),
            lambda: e.tag("set j = joiner('; ')") + e.tag("for i in words") + e.out("j()") + e.out("i") + e.tag("endfor"),
            lambda: e.tag("set c = cycler(1, 2, 3)") + e.out("c.next()") + e.out("c.next()") + e.out("c.current") + e.tag("set _ = c.reset()") + e.out("c.current"),
            lambda: e.tag(f"if {e.bool(1)}") + e.tag(f"set x = {e.any(1)}") + e.tag("endif") + e.out("x"),
            lambda: e.tag(f"if {e.bool(2)}") + e.out("raise_exception('no: ' ~ n)") + e.tag("endif"),
            lambda: e.tag(f"print {e.any(1)}, {e.any(0)}"),
        ])()


def generate(count, seed):
    """Pairs; one in five may be a failure, so that most have output to compare."""
    r = random.Random(seed)
    seen, pairs = set(), 0
    while pairs < count:
        m = Maker(r)
        template = r.choice([lambda: m.out(m.any(2)), lambda: m.out(m.any(3)), lambda: m.block(1), lambda: m.block(2), lambda: m.block(2)])()
        if template in seen or len(template) > 3000:
            continue
        pair = render(template, variables(r))
        if pair is None or ("error" in pair and r.random() < 0.8):
            continue
        seen.add(template)
        pairs += 1
        yield pair


def committed():
    from template_cases import CASES
    for template, values in CASES:
        pair = render(template, values)
        if pair is None:
            print(f"not comparable: {template}", file=sys.stderr)
        else:
            yield pair
    yield from generate(150, 2)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--count", type=int, default=5000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--committed", action="store_true")
    a = p.parse_args()
    for pair in committed() if a.committed else generate(a.count, a.seed):
        print(json.dumps(pair, ensure_ascii=False))


if __name__ == "__main__":
    main()
