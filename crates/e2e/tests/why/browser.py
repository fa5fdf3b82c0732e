"""Drives headless Chromium for the test of the page. Each line of input is a JSON list: a verb and
its arguments. Each line of output is the JSON answer."""

import json
import sys

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys


def browser(profile):
    options = webdriver.ChromeOptions()
    for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--ignore-certificate-errors", f"--user-data-dir={profile}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def keys(driver, text):
    named = {"Escape": Keys.ESCAPE, "Enter": Keys.ENTER, "Tab": Keys.TAB}
    ActionChains(driver).send_keys(named.get(text, text)).perform()


def check(driver, axe):
    driver.execute_script(open(axe, encoding="utf-8").read())
    found = driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document, {resultTypes: ['violations']}).then(done);")
    return [{"rule": one["id"], "help": one["help"],
             "nodes": [node["html"] for node in one["nodes"]]} for one in found["violations"]]


def answer(driver, verb, *arguments):
    if verb == "open":
        driver.get(arguments[0])
        return driver.current_url
    if verb == "run":
        return driver.execute_script(arguments[0])
    if verb == "keys":
        return keys(driver, arguments[0])
    if verb == "size":
        driver.set_window_size(*arguments)
        return None
    if verb == "axe":
        return check(driver, arguments[0])
    if verb == "shot":
        return driver.save_screenshot(arguments[0])
    if verb == "console":
        return [entry["message"] for entry in driver.get_log("browser")]
    raise ValueError(verb)


def main():
    driver = browser(sys.argv[1])
    try:
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            if json.loads(line) == ["end"]:
                break
            print(json.dumps(answer(driver, *json.loads(line))), flush=True)
    finally:
        driver.quit()


main()
