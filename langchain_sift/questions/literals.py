"""Read lists and objects that are written as text: JSON, or as Python or NumPy writes them."""

from __future__ import annotations

import ast
import io
import json
import tokenize


def literal(text: str) -> object:
    """Return the value of a text that is JSON, or as Python or NumPy writes it; None if none."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(_Lists().visit(ast.parse(_with_commas(text), mode="eval")))
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            return None
    return value


def _with_commas(text: str) -> str:
    """Return a literal with the commas between texts, or numbers, that NumPy leaves out."""
    tokens: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text.replace("\n", " ")).readline):
        if tokens and {token.type, tokens[-1][0]} <= {tokenize.STRING, tokenize.NUMBER}:
            tokens.append((tokenize.OP, ","))
        tokens.append((token.type, token.string))
    return " ".join(string for _, string in tokens)


class _Lists(ast.NodeTransformer):
    """Turns NumPy's `array([...], dtype=object)` into its list."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Return the list of an array; any other call as it is, which is no literal."""
        is_array = isinstance(node.func, ast.Name) and node.func.id == "array" and node.args
        replaced: ast.AST = self.visit(node.args[0]) if is_array else node
        return replaced
