"""
Findings as JUnit XML, the form that a CI reads.
"""

import xml.etree.ElementTree as ET

from tfcanary.check.report import Report
from tfcanary.judge.verdict import Outcome


def junit(report: Report) -> str:
    """
    A test case for each check: a failure if it did not hold, an error if it lacks evidence.
    """
    suite = ET.Element(
        "testsuite",
        name="check_gateway",
        tests=str(len(report.findings)),
        failures=str(sum(check.outcome is Outcome.FAILED for check in report.findings)),
        errors=str(
            sum(check.outcome is Outcome.NOT_ENOUGH for check in report.findings) + bool(report.interrupted)
        ),
        time=f"{report.seconds:.3f}",
    )
    for check in report.findings:
        case = ET.SubElement(suite, "testcase", classname=f"check_gateway.{check.name}", name=check.title)
        text = f"expected {check.expected}, seen {check.observed} in {check.n} answers; {check.detail}"
        if check.outcome is not Outcome.HELD:
            kind = "failure" if check.outcome is Outcome.FAILED else "error"
            ET.SubElement(case, kind, message=_xml(f"{check.outcome.value}: {check.observed}")).text = _xml(
                text
            )
        else:
            ET.SubElement(case, "system-out").text = _xml(text)
    if report.interrupted:
        case = ET.SubElement(suite, "testcase", classname="check_gateway", name="run")
        ET.SubElement(case, "error", message=_xml(f"interrupted: {report.interrupted}"))
    suites = ET.Element("testsuites")
    suites.append(suite)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    """
    The string with U+FFFD for the control characters that XML cannot carry.
    """
    return "".join(character if character >= " " or character in "\t\n" else "�" for character in text)
