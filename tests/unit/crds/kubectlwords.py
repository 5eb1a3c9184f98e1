"""Words that kubectl already gives a meaning: plurals, singulars and short names of Kubernetes 1.37."""

_SHORT = (
    "all cj cm crd crds cs csr deploy ds ep ev hpa ing ip limits netpol no ns pc pdb po pv pvc quota rc "
    "rs sa sc sts svc vac"
)
_KINDS = (
    "apiservice binding certificatesigningrequest clusterrole clusterrolebinding clustertrustbundle "
    "componentstatus configmap controllerrevision cronjob csidriver csinode csistoragecapacity "
    "customresourcedefinition daemonset deployment deviceclass devicetaintrule endpoints endpointslice "
    "event flowschema horizontalpodautoscaler ingress ingressclass ipaddress job lease limitrange "
    "localsubjectaccessreview mutatingadmissionpolicy mutatingadmissionpolicybinding "
    "mutatingwebhookconfiguration namespace networkpolicy node persistentvolume persistentvolumeclaim pod "
    "podcertificaterequest poddisruptionbudget podtemplate priorityclass prioritylevelconfiguration "
    "replicaset replicationcontroller resourceclaim resourceclaimtemplate resourcequota resourceslice "
    "role rolebinding runtimeclass secret selfsubjectaccessreview selfsubjectreview "
    "selfsubjectrulesreview service serviceaccount servicecidr statefulset storageclass "
    "storageversionmigration subjectaccessreview tokenreview validatingadmissionpolicy "
    "validatingadmissionpolicybinding validatingwebhookconfiguration volumeattachment "
    "volumeattributesclass"
)


def _plural(word: str) -> str:
    if word.endswith("s"):
        return word if word.endswith("points") else word + "es"
    return word[:-1] + "ies" if word.endswith(("cy", "ty")) else word + "s"


WORDS = frozenset(_SHORT.split()) | frozenset(
    form for word in _KINDS.split() for form in (word, _plural(word))
)
