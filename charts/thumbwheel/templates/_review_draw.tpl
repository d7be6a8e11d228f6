{{/* Arguments of `python3 -m` of the job that draws items for reviewers. */}}
{{- define "thumbwheel.reviewDrawWords" -}}
{{- $v := .Values.reviewDraw -}}{{- $known := include "thumbwheel.known" . | fromYaml -}}
{{- $words := list "training" "draw" "--state" "/" "--patience" "120" -}}
{{- range list "feedback" "review" -}}
  {{- $words = concat $words (list (printf "--%s" .) (printf "dns:///%s:%v" (include "thumbwheel.name" (list $ .)) (index $known .).port)) -}}
{{- end -}}
{{- range $option, $value := dict "blocked" $v.amounts.blocked "disagreement" $v.amounts.disagreement "new-version" $v.amounts.newVersion "random" $v.amounts.random "days" $v.days "new-version-days" $v.newVersionDays "language" $v.language -}}
  {{- $words = concat $words (list (printf "--%s" $option) (toString $value)) -}}
{{- end -}}
{{- with include "thumbwheel.tlsSettings" . | fromYaml -}}{{- $words = concat $words (list "--tls" .tls_certificate .tls_key .tls_authority) -}}{{- end -}}
{{- $words | toJson -}}
{{- end -}}

{{- define "thumbwheel.validateReviewDraw" -}}
{{- if .Values.reviewDraw.enabled -}}
{{- $settings := (include "thumbwheel.values" (list . "review") | fromYaml).settings | default dict -}}
{{- $kept := $settings.item_days | default 90 -}}
{{- if ge (float64 .Values.reviewDraw.days) (float64 $kept) -}}{{ println (printf "reviewDraw.days: must be below the %v days for which review keeps items (services.review.settings.item_days), or removed items would be drawn again" $kept) }}{{- end -}}
{{- end -}}
{{- end -}}
