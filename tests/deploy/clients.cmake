# docs/clients.md, its examples and the installable API. The C++ example is compiled by the test:
# minutes on two cores the first time, seconds with ccache.
longdoc_add_python_test(clients clients_test.py TIMEOUT 1200)
