"""The files of the page, which the server and a folder of static files share."""

from importlib import resources

from i21k.look.html import asset

PAGE, BROWSER = "page", "browser"  # folders of this package


def page_files() -> dict[str, str]:
    """Return the files of the page by name, without `index.html`."""
    return {"look.css": asset("look.css"), **_folder(PAGE)}


def browser_files() -> dict[str, str]:
    """Return the scripts that compute in the browser. Their `api.js` replaces the page's."""
    return _folder(BROWSER)


def index(
    *, policy: str = "", scripts: str = "", noscript: str = "", status: str = "", foot: str
) -> str:
    """Return `index.html`. Its addresses are relative.

    Args:
        policy: a `meta` element with a security policy.
        scripts: `script` elements before that of the page.
        noscript: text for a browser without JavaScript.
        status: HTML below the line that names the model.
        foot: HTML at the end.
    """
    text = resources.files(__package__).joinpath(PAGE, "index.html").read_text("utf-8")
    slots = {
        "policy": policy, "scripts": scripts, "noscript": noscript, "status": status, "foot": foot,
    }  # fmt: skip
    for name, html in slots.items():
        assert text.count(f"{{{name}}}") == 1, name
        text = text.replace(f"{{{name}}}", html)
    return text


def _folder(name: str) -> dict[str, str]:
    files = resources.files(__package__).joinpath(name).iterdir()
    return {file.name: file.read_text("utf-8") for file in files if file.name != "index.html"}
