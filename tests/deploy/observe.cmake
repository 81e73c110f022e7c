# deploy/prometheus and deploy/grafana.
longdoc_add_python_test(observe_unit observe_unit_test.py)
longdoc_add_python_test(observe observe_test.py)
longdoc_add_python_test(observe_script observe_script_test.py)
