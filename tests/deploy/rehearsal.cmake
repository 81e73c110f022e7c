# About a minute of traffic, most of it waiting; a label of its own, so that it can be left out:
# ctest -LE rehearsal.
longdoc_add_python_test(rehearsal rehearsal_test.py LABEL rehearsal TIMEOUT 600)
