"""Home of the pieces that a section of the report is made of: figures with captions, tables, and the section itself."""


def figure(name: str, draw, arguments: tuple, lead: str, caption: str) -> dict:
    """A figure drawn by `draw(*arguments)` into `name`.png; `lead` opens its caption and describes it to who cannot see it."""
    return {
        "file": f"{name}.png",
        "draw": draw,
        "arguments": arguments,
        "alt": lead,
        "lead": lead,
        "caption": caption,
    }


def table(title: str, columns: list[str], rows: list[list[str]], text_columns: int = 1) -> dict:
    """A table whose first `text_columns` columns are words and whose others are numbers."""
    return {"title": title, "columns": columns, "rows": rows, "text_columns": text_columns}


def section(name: str, title: str, figures: list, tables: list) -> dict | None:
    """A section, None where there is nothing in it."""
    return {"id": name, "title": title, "figures": figures, "tables": tables} if figures or tables else None
