"""The command line as a process of its own: what other tests of commands check in-process."""

import pytest


def test_a_command_that_works(run_process):
    code, out, err = run_process("functions")
    assert (code, err) == (0, "")
    assert " SINEXP " in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tune", "digit", "mlp"), "lrbench-hpo: unknown dataset 'digit': did you mean digits"),
        (("db", "import", "\x1b[2J.csv"), "lrbench-hpo: \\x1b[2J.csv: No such file"),
    ],
)
def test_an_error_is_one_printable_line(run_process, arguments, says):
    code, out, err = run_process(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(says)
    assert err.removesuffix("\n").isprintable()
