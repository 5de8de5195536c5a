"""A page, fetched without a network."""

from flask import Flask

app = Flask(__name__)


@app.get("/")
def page():
    return "a page by Flask"


if __name__ == "__main__":
    print(app.test_client().get("/").text)
